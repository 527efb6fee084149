"""Options of IR-QLoRA's parts."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from edgelora import AdapterOptions
from edgelora.options import BlockwiseOptions


class CalibrationOptions(BlockwiseOptions):
    """Options of ``nf4-icq``, ``nf3-icq`` and ``nf2-icq``."""

    search_range: float = Field(
        0.1, gt=0, description="Offsets up to this many standard deviations are tried (paper: λ)."
    )
    search_steps: int = Field(
        100, ge=1, description="Offsets tried on each side of the block's median (paper: n)."
    )


class ElasticOptions(AdapterOptions):
    """Options of ``iec``."""

    grouping: Literal["strict", "gcd"] = Field(
        "strict",
        description="What to do where the rank does not divide a layer's width: refuse it, or average over "
        "as many groups as their greatest common divisor.",
    )
