"""DoRA: magnitude and direction of each weight row learn apart.

Liu et al., DoRA: Weight-Decomposed Low-Rank Adaptation, arXiv:2402.09353.
"""

from collections.abc import Iterable

from edgelora import Derivative, Part, hookimpl


@hookimpl
def edgelora_adapters() -> Iterable[Part]:
    """``dora``."""
    yield Part(
        name="dora",
        target="edgelora_plugins.dora.layer:DoraAdapter",
        options="edgelora.options:AdapterOptions",
        summary="a low-rank change of each row's direction, and its magnitude beside",
        paper="arXiv:2402.09353",
        abilities=("Mergeable", "Exportable"),
    )


@hookimpl
def edgelora_derivatives() -> Iterable[Derivative]:
    """``dora`` and ``qdora``."""
    yield Derivative(
        name="dora",
        summary="weight-decomposed low-rank adaptation",
        paper="arXiv:2402.09353",
        parts={"adapter": "dora"},
    )
    yield Derivative(
        name="qdora",
        summary="DoRA over a base quantized to 4-bit NormalFloat",
        paper="arXiv:2402.09353",
        parts={"quantizer": "qlora:nf4", "adapter": "dora"},
    )
