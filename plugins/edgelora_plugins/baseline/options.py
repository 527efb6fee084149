"""Options of the baseline's parts."""

from __future__ import annotations

from pydantic import Field

from edgelora import Options


class ExactMatchOptions(Options):
    """Options of ``exact-match``."""

    max_new_tokens: int | None = Field(
        None,
        ge=1,
        description="Tokens generated per question at most; longer answers cannot match. Left out: those of "
        "the task's longest expected answer and one more, up to longest_answer.",
    )
    longest_answer: int = Field(
        512, ge=1, description="Bound on max_new_tokens where that is left out, against a single huge answer."
    )
    batch_size: int = Field(64, ge=1, description="Questions generated at the same time.")
    samples: int = Field(500, ge=1, description="Held-out questions asked per task at most, the first ones.")
