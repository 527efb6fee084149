"""Options of the litmus suite."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from edgelora import Options

Row = Literal["decimals_conflict", "decimals_agree", "versions", "sequences", "fibonacci"]


class LitmusOptions(Options):
    """Options of ``litmus``."""

    samples: int = Field(
        500, ge=1, le=2000, description="Questions per row; Fibonacci always asks all its windows."
    )
    rows: list[Row] = Field(
        ["decimals_conflict", "decimals_agree", "versions", "sequences", "fibonacci"],
        min_length=1,
        description="Rows to measure: decimals whose order as versions differs or agrees, versions and "
        "additive sequences (are they retained?), Fibonacci windows (memorised, not generalised).",
    )
    max_new_tokens: int = Field(32, ge=1, description="Tokens generated per question at most.")
    batch_size: int = Field(128, ge=1, description="Questions generated at the same time.")
