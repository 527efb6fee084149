"""Absolute-maximum int8 with one scale per row, as in LLM.int8() without outliers. arXiv:2208.07339."""

from edgelora import Part, hookimpl


@hookimpl
def edgelora_quantizers() -> list[Part]:
    return [
        Part(
            name="absmax8",
            target="edgelora_int8.quantizer:Int8Quantizer",
            summary="8-bit integers, one scale per output row",
            paper="arXiv:2208.07339",
        )
    ]
