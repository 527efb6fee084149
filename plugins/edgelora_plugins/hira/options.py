"""Options of HiRA."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from edgelora import AdapterOptions


class HiraOptions(AdapterOptions):
    """Options of ``hira``."""

    rank: int = Field(
        32, ge=1, description="Rank of the product that W is multiplied with; not of the change."
    )
    alpha: float = Field(
        16.0, gt=0, description="Not used: HiRA does not scale. Every adapter that wraps linears has it."
    )
    dropout: float = Field(0.0, ge=0, lt=1, description="Dropout on the input of the Hadamard branch.")
    alpha_pattern: dict[str, Annotated[float, Field(gt=0)]] = Field({}, description="Not used, like alpha.")
