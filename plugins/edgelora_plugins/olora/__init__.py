"""OLoRA: LoRA that starts at the first columns of a QR decomposition.

Büyükakyüz, OLoRA: Orthonormal Low-Rank Adaptation of Large Language Models, arXiv:2406.01775.
"""

from collections.abc import Iterable

from edgelora import Derivative, Part, hookimpl


@hookimpl
def edgelora_adapters() -> Iterable[Part]:
    """``olora``."""
    yield Part(
        name="olora",
        target="edgelora_plugins.olora.layer:OloraAdapter",
        options="edgelora.options:AdapterOptions",
        summary="LoRA whose factors start orthonormal, from a QR decomposition of the weight",
        paper="arXiv:2406.01775",
        abilities=("Additive", "LowRank"),
    )


@hookimpl
def edgelora_derivatives() -> Iterable[Derivative]:
    """``olora``."""
    yield Derivative(
        name="olora",
        summary="LoRA from an orthonormal start",
        paper="arXiv:2406.01775",
        parts={"adapter": "olora"},
    )
