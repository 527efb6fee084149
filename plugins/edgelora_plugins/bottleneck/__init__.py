"""Sequential bottleneck adapters after the sublayers of a transformer.

Houlsby et al., Parameter-Efficient Transfer Learning for NLP, arXiv:1902.00751.
"""

from collections.abc import Iterable

from edgelora import Derivative, Part, hookimpl


@hookimpl
def edgelora_adapters() -> Iterable[Part]:
    """``bottleneck``."""
    yield Part(
        name="bottleneck",
        target="edgelora_plugins.bottleneck.layer:BottleneckAdapter",
        options="edgelora_plugins.bottleneck.options:BottleneckOptions",
        summary="a small network after each sublayer's output; it cannot be merged",
        paper="arXiv:1902.00751",
        abilities=("NamesTargets",),
    )


@hookimpl
def edgelora_derivatives() -> Iterable[Derivative]:
    """``bottleneck``."""
    yield Derivative(
        name="bottleneck",
        summary="bottleneck adapters after attention and feed-forward",
        paper="arXiv:1902.00751",
        parts={"adapter": "bottleneck"},
    )
