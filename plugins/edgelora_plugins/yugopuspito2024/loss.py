"""Algorithms 2 and 3: the loss of several tasks."""

from __future__ import annotations

from edgelora.layers.authoring import SummingCombiner


class TaskSum(SummingCombiner):
    """L = Σ L_i over the tasks, each weighing the same. Yugopuspito et al. 2024, Algorithms 2 and 3.

    Auxiliary losses of the adapter are added too.
    """
