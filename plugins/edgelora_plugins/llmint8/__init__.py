"""Weights in 8-bit integers, one scale for each output row.

Dettmers et al., LLM.int8(): 8-bit Matrix Multiplication for Transformers at Scale, arXiv:2208.07339. Weights
alone are quantized: activations stay floats, so nothing has to be taken out for their outliers.
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
        summary="8-bit integers, one scale for each output row",
        paper="arXiv:2208.07339",
    )
