"""IR-QLoRA: quantization that keeps the most information, and adapters that let information through.

Qin et al., Accurate LoRA-Finetuning Quantization of LLMs via Information Retention, arXiv:2402.05445.
"""

from collections.abc import Iterable

from edgelora import Derivative, Part, hookimpl

PAPER = "arXiv:2402.05445"


@hookimpl
def edgelora_quantizers() -> Iterable[Part]:
    """``nf4-icq``, ``nf3-icq`` and ``nf2-icq``."""
    for bits in (4, 3, 2):
        yield Part(
            name=f"nf{bits}-icq",
            target=f"edgelora_plugins.irqlora.quantizer:CalibratedNormalFloat{bits}",
            options="edgelora_plugins.irqlora.options:CalibrationOptions",
            summary=f"NF{bits} with each block moved to where its codes have the highest entropy",
            paper=PAPER,
            kit={"options": {"search_steps": 10}},
        )


@hookimpl
def edgelora_adapters() -> Iterable[Part]:
    """``iec``."""
    yield Part(
        name="iec",
        target="edgelora_plugins.irqlora.layer:ElasticAdapter",
        options="edgelora_plugins.irqlora.options:ElasticOptions",
        summary="LoRA whose factors have averaging shortcuts beside them",
        paper=PAPER,
        abilities=("Additive", "LowRank"),
    )


@hookimpl
def edgelora_evaluators() -> Iterable[Part]:
    """``code-entropy``."""
    yield Part(
        name="code-entropy",
        target="edgelora_plugins.irqlora.metrics:CodeEntropy",
        options="edgelora_plugins.irqlora.options:EntropyOptions",
        summary="information in the codes, in bits per code and block",
        paper=PAPER,
    )


@hookimpl
def edgelora_derivatives() -> Iterable[Derivative]:
    """``irqlora``."""
    yield Derivative(
        name="irqlora",
        summary="LoRA with elastic connections over entropy-calibrated 4-bit weights",
        paper=PAPER,
        parts={"quantizer": "nf4-icq", "adapter": "iec"},
    )
