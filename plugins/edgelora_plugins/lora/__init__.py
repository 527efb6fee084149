"""LoRA and rsLoRA.

Hu et al., LoRA: Low-Rank Adaptation of Large Language Models, arXiv:2106.09685.
Kalajdzievski, A Rank Stabilization Scaling Factor for Fine-Tuning with LoRA, arXiv:2312.03732.
"""

from collections.abc import Iterable

from edgelora import Derivative, Part, hookimpl


@hookimpl
def edgelora_adapters() -> Iterable[Part]:
    """``lora``."""
    yield Part(
        name="lora",
        target="edgelora_plugins.lora.layer:LoraAdapter",
        options="edgelora_plugins.lora.options:LoraOptions",
        summary="a trainable low-rank product beside each linear",
        paper="arXiv:2106.09685",
        abilities=("Additive", "LowRank", "WrapsEmbeddings"),
    )


@hookimpl
def edgelora_derivatives() -> Iterable[Derivative]:
    """``lora`` and ``rslora``."""
    yield Derivative(
        name="lora",
        summary="low-rank adaptation of an unquantized base",
        paper="arXiv:2106.09685",
        parts={"adapter": "lora"},
    )
    yield Derivative(
        name="rslora",
        summary="LoRA scaled by alpha / √rank",
        paper="arXiv:2312.03732",
        parts={"adapter": {"name": "lora", "rank_stabilized": True}},
    )
