"""The sum of all losses."""

from __future__ import annotations

from edgelora.layers.authoring import SummingCombiner


class LossSum(SummingCombiner):
    """L = Σ task losses + Σ auxiliary losses."""
