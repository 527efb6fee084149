"""HiRA: a low-rank product multiplied into the weight, element by element.

Huang et al., HiRA: Parameter-Efficient Hadamard High-Rank Adaptation for Large Language Models, ICLR 2025.
"""

from collections.abc import Iterable

from edgelora import Derivative, Part, hookimpl

PAPER = "Huang et al., ICLR 2025"


@hookimpl
def edgelora_adapters() -> Iterable[Part]:
    """``hira``."""
    yield Part(
        name="hira",
        target="edgelora_plugins.hira.layer:HiraAdapter",
        options="edgelora_plugins.hira.options:HiraOptions",
        summary="the weight times a low-rank product, element by element: a change of high rank",
        paper=PAPER,
        abilities=("Mergeable", "Exportable"),
    )


@hookimpl
def edgelora_derivatives() -> Iterable[Derivative]:
    """``hira``."""
    yield Derivative(
        name="hira",
        summary="Hadamard high-rank adaptation",
        paper=PAPER,
        parts={"adapter": "hira"},
    )
