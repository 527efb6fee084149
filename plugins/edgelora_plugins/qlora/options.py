"""Options of the four-bit quantizers."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from edgelora import Options


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
