"""Options of the baseline's parts."""

from __future__ import annotations

from edgelora.options import AnswerOptions


class ExactMatchOptions(AnswerOptions):
    """Options of ``exact-match``."""
