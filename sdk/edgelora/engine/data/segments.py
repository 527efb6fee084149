"""Text cut into what is learned and what is not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple


class Segment(NamedTuple):
    """A stretch of text."""

    text: str
    learned: bool


@dataclass(frozen=True, slots=True)
class Rendered:
    """One row as text.

    Attributes:
        segments: In order; joined, they are the text the model sees.
        prompt: What stands before the last learned segment; None where there is nothing before it.
        response: What the model should answer to ``prompt``, without the marks that end a turn.
    """

    segments: tuple[Segment, ...]
    prompt: str | None = None
    response: str | None = None
