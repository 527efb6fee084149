"""Ranks that stay as they start."""

from __future__ import annotations

from edgelora.layers.authoring import PassiveScheduler


class ConstantRanks(PassiveScheduler):
    """Does nothing at every step."""
