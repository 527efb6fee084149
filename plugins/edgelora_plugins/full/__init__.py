"""Full fine-tuning: every weight learns. The baseline that adapters are measured against."""

from collections.abc import Iterable

from edgelora import Derivative, Part, hookimpl


@hookimpl
def edgelora_adapters() -> Iterable[Part]:
    """``weights``."""
    yield Part(
        name="weights",
        target="edgelora_plugins.full.adapter:AllWeights",
        options="edgelora_plugins.full.options:FullOptions",
        summary="every weight of an unquantized base",
        abilities=("AdaptsModel", "FoldsIntoModel"),
    )


@hookimpl
def edgelora_derivatives() -> Iterable[Derivative]:
    """``full``."""
    yield Derivative(
        name="full",
        summary="every weight learns, the baseline of adapters",
        parts={"quantizer": "baseline:none", "adapter": "weights"},
    )
