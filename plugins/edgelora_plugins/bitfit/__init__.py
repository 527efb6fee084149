"""BitFit: biases learn and weights do not.

Ben-Zaken et al., BitFit: Simple Parameter-efficient Fine-tuning for Transformer-based Masked Language-models,
arXiv:2106.10199.
"""

from collections.abc import Iterable

from edgelora import Derivative, Part, hookimpl


@hookimpl
def edgelora_adapters() -> Iterable[Part]:
    """``bias``."""
    yield Part(
        name="bias",
        target="edgelora_plugins.bitfit.layer:BiasAdapter",
        options="edgelora_plugins.bitfit.options:BiasOptions",
        summary="the bias of each linear, one of zeros where it has none",
        paper="arXiv:2106.10199",
        abilities=("Additive", "Mergeable", "MergesBias"),
    )


@hookimpl
def edgelora_derivatives() -> Iterable[Derivative]:
    """``bitfit``."""
    yield Derivative(
        name="bitfit",
        summary="only biases learn",
        paper="arXiv:2106.10199",
        parts={"adapter": "bias"},
    )
