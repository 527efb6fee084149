"""Weights in 8-bit integers, one scale for each output row, its largest magnitude; rounded to nearest.

Weights alone are quantized, and are floats again in each product. This is no LLM.int8() (Dettmers et al.,
arXiv:2208.07339): it takes out no outlier features, and multiplies no 8-bit integers.
"""

from collections.abc import Iterable

from edgelora import Part, hookimpl


@hookimpl
def edgelora_quantizers() -> Iterable[Part]:
    """``int8``."""
    yield Part(
        name="int8",
        target="edgelora_plugins.llmint8.quantizer:RowInt8",
        options="edgelora_plugins.llmint8.options:RowInt8Options",
        summary="8-bit integers, one scale for each output row; weights only",
    )
