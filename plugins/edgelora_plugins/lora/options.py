"""Options of LoRA."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from edgelora import Options


class LoraOptions(Options):
    """Options of ``lora``."""

    rank: int = Field(16, ge=1, description="Rank of the low-rank product.")
    alpha: float = Field(16.0, gt=0, description="The product is scaled by alpha / rank.")
    dropout: float = Field(0.0, ge=0, lt=1, description="Dropout on the input of the low-rank branch.")
    target_modules: Literal["all-linear"] | list[str] = Field(
        "all-linear",
        description='Linears to adapt, by full name or suffix; "all-linear" takes all but the output head.',
    )
    exclude_modules: list[str] = Field([], description="Linears to leave out, by full name or suffix.")
    rank_pattern: dict[str, Annotated[int, Field(ge=1)]] = Field(
        {}, description="Other ranks for some linears, by name or suffix."
    )
    alpha_pattern: dict[str, Annotated[float, Field(gt=0)]] = Field(
        {}, description="Other alphas for some, by name or suffix."
    )
    rank_stabilized: bool = Field(False, description="rsLoRA: scale by alpha / √rank.")
