import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from edgelora.layers.authoring import SummingCombiner
from edgelora.protocols import TrainingRun

from .options import DwaOptions


class DynamicWeightAverage(SummingCombiner):
    """L = Σ λ_k L_k, equation 7: λ_k = K exp(w_k / T) / Σ_i exp(w_i / T), w_k = L_k(t-1) / L_k(t-2).

    L_k(t) is the mean loss of task k over a period of ``every`` steps. The weights are those of the two
    periods before; all are 1 until there are two. A loss that is not a task's keeps weight 1.
    """

    options: DwaOptions

    def attach(self, run: TrainingRun) -> None:
        self.period = 0
        self.seen = {f"task.{task}": [0.0, 0] for task in run.tasks}
        self.means: list[dict[str, float]] = []
        self.weights = dict.fromkeys(self.seen, 1.0)

    def __call__(self, losses: Mapping[str, Tensor], step: int) -> Tensor:
        if step // self.options.every != self.period:
            self.period = step // self.options.every
            self._turn()
        for name in losses.keys() & self.seen.keys():
            total, count = self.seen[name]
            self.seen[name] = [total + float(losses[name].detach()), count + 1]
        return torch.stack([self.weights.get(name, 1.0) * loss for name, loss in losses.items()]).sum()

    def state_dict(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("period", "seen", "means", "weights")}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        vars(self).update(state)

    def _turn(self) -> None:
        """Close a period and weigh the tasks anew."""
        # A task without a row in the period is taken to be where it was.
        before = self.means[-1] if self.means else {}
        mean = {name: total / n if n else before.get(name, 0.0) for name, (total, n) in self.seen.items()}
        self.means = [*self.means[-1:], mean]
        self.seen = {name: [0.0, 0] for name in self.seen}
        if len(self.means) == 2:
            earlier, later = self.means
            pace = {name: later[name] / earlier[name] if earlier[name] > 0 else 1.0 for name in later}
            # The fastest is taken out, so that no exponential overflows.
            most = max(pace.values())
            scores = {name: math.exp((w - most) / self.options.temperature) for name, w in pace.items()}
            self.weights = {name: len(scores) * s / sum(scores.values()) for name, s in scores.items()}
