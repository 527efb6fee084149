"""QLoRA: LoRA over a base in four bits.

Dettmers et al., QLoRA: Efficient Finetuning of Quantized LLMs, arXiv:2305.14314. The base is quantized, the
adapter is not.
"""

from collections.abc import Iterable
from typing import Literal

from pydantic import Field

from edgelora import Derivative, Options, Part, hookimpl


class FourBitOptions(Options):
    """Options of ``nf4`` and ``fp4``."""

    block_size: Literal[32, 64, 128, 256, 512, 1024, 2048, 4096] = Field(
        64, description="Consecutive weights that share one scale."
    )
    double_quantization: bool = Field(
        True, description="Quantize the scales as well, to 8 bits in blocks of 256."
    )
    compute_dtype: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="Of the products; auto takes that of the activations."
    )


@hookimpl
def edgelora_quantizers() -> Iterable[Part]:
    """``nf4`` and ``fp4``."""
    yield Part(
        name="nf4",
        target="edgelora_plugins.qlora.quantizer:NormalFloat4",
        options=FourBitOptions,
        summary="4-bit NormalFloat in blocks, the scales quantized too",
        paper="arXiv:2305.14314",
    )
    yield Part(
        name="fp4",
        target="edgelora_plugins.qlora.quantizer:Float4",
        options=FourBitOptions,
        summary="4-bit floating point in blocks, the scales quantized too",
        paper="arXiv:2305.14314",
    )


@hookimpl
def edgelora_derivatives() -> Iterable[Derivative]:
    """``qlora``."""
    yield Derivative(
        name="qlora",
        summary="LoRA over a base quantized to 4-bit NormalFloat",
        paper="arXiv:2305.14314",
        parts={"quantizer": "nf4", "adapter": "lora"},
    )
