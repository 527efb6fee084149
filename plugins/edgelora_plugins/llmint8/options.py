"""Options of the 8-bit quantizer."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from edgelora import Options


class RowInt8Options(Options):
    """What is free in absolute-maximum quantization by rows: how products are computed."""

    compute_dtype: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="Of the products; auto takes that of the activations."
    )
