"""Algorithms 2, 3 and 5: the losses of several tasks as one."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from edgelora import Options
from edgelora.layers.authoring import SummingCombiner
from edgelora.protocols import Measurement, TrainingRun
from edgelora_plugins.yugopuspito2024.options import AccuracyOptions


class TaskSum(SummingCombiner):
    """L = Σ L_i over the tasks, each weighing the same. Yugopuspito et al. 2024, Algorithms 2 and 3.

    Auxiliary losses of the adapter are added too.
    """


class AccuracyScaled(SummingCombiner):
    """L = Σ γ_i L_i + Σ auxiliary losses; γ_i ← γ_i exp(α (1 − acc_i)). Yugopuspito et al. 2024, Algorithm 5.

    γ_i = 1 at first. The paper updates it at every step; here it is updated when the run evaluates
    (``train.evaluate_every``), by what was measured on held-out rows, and holds from the next step on. It
    never falls, and grows without bound while a task has errors, unless ``normalize`` or ``cap`` are set.
    """

    options: AccuracyOptions

    def __init__(self, options: Options) -> None:
        super().__init__(options)
        self.scales: dict[str, float] = {}

    def attach(self, run: TrainingRun) -> None:
        """Every task weighs 1."""
        self.scales = dict.fromkeys(run.tasks, 1.0)

    def __call__(self, losses: Mapping[str, Tensor], step: int) -> Tensor:
        """Scalar, by the scales as they are."""
        return torch.stack([self._scale(name) * loss for name, loss in losses.items()]).sum()

    def after_evaluation(self, measurements: Mapping[str, Measurement]) -> None:
        """Let tasks with errors weigh more; one that was not measured stays as it is."""
        for task, scale in self.scales.items():
            found = measurements.get(f"{task}.{self.options.metric}")
            if found is not None:
                self.scales[task] = scale * math.exp(self.options.rate * (1 - found.value))
        if self.options.normalize:
            total = sum(self.scales.values())
            self.scales = {task: scale * len(self.scales) / total for task, scale in self.scales.items()}
        if self.options.cap is not None:
            self.scales = {task: min(scale, self.options.cap) for task, scale in self.scales.items()}

    def state_dict(self) -> dict[str, Any]:
        """The scales by task."""
        return {"scales": dict(self.scales)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a `state_dict`."""
        self.scales = dict(state["scales"])

    def _scale(self, name: str) -> float:
        return self.scales.get(name.removeprefix("task."), 1.0) if name.startswith("task.") else 1.0
