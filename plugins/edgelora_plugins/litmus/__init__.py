"""The litmus suite: "9.11 or 9.9?" and its kin, on pairs that no training set of the micro base contains."""

from collections.abc import Iterable
from typing import Literal

from pydantic import Field

from edgelora import Options, Part, hookimpl

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


@hookimpl
def edgelora_evaluators() -> Iterable[Part]:
    """``litmus``."""
    yield Part(
        name="litmus",
        target="edgelora_plugins.litmus.metrics:Litmus",
        options=LitmusOptions,
        summary="decimals on held-out pairs; versions and sequences retained; Fibonacci, memorised",
    )
