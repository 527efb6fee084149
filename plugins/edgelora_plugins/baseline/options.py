"""Options of the baseline's parts."""

from __future__ import annotations

from pydantic import Field

from edgelora import Options


class ExactMatchOptions(Options):
    """Options of ``exact-match``."""

    max_new_tokens: int = Field(32, ge=1, description="Tokens generated per question at most.")
    batch_size: int = Field(64, ge=1, description="Questions generated at the same time.")
    samples: int = Field(500, ge=1, description="Held-out questions asked per task at most, the first ones.")
