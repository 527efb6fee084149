"""QLoRA: LoRA over a base in four bits.

Dettmers et al., QLoRA: Efficient Finetuning of Quantized LLMs, arXiv:2305.14314. The base is quantized, the
adapter is not.
"""

from collections.abc import Iterable

from edgelora import Derivative, Part, hookimpl


@hookimpl
def edgelora_quantizers() -> Iterable[Part]:
    """``nf4`` and ``fp4``."""
    yield Part(
        name="nf4",
        target="edgelora_plugins.qlora.quantizer:NormalFloat4",
        options="edgelora.options:BlockwiseOptions",
        summary="4-bit NormalFloat in blocks, the scales quantized too",
        paper="arXiv:2305.14314",
        abilities=("StockQuantization", "StockTensors"),
    )
    yield Part(
        name="fp4",
        target="edgelora_plugins.qlora.quantizer:Float4",
        options="edgelora.options:BlockwiseOptions",
        summary="4-bit floating point in blocks, the scales quantized too",
        paper="arXiv:2305.14314",
        abilities=("StockQuantization", "StockTensors"),
    )


@hookimpl
def edgelora_evaluators() -> Iterable[Part]:
    """``quantization``."""
    yield Part(
        name="quantization",
        target="edgelora_plugins.qlora.metrics:QuantizationCost",
        summary="bits per weight of the frozen linears, and their relative error",
    )


@hookimpl
def edgelora_derivatives() -> Iterable[Derivative]:
    """``qlora``."""
    yield Derivative(
        name="qlora",
        summary="LoRA over a base quantized to 4-bit NormalFloat",
        paper="arXiv:2305.14314",
        parts={"quantizer": "nf4", "adapter": "lora:lora"},
    )
