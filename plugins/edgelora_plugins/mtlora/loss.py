"""Losses of several tasks as one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from edgelora import Options
from edgelora.layers.authoring import SummingCombiner
from edgelora.protocols import TrainingRun
from edgelora_plugins.mtlora.options import WeightOptions

PREFIX = "task."


class WeightedTasks(SummingCombiner):
    """L = Σ w_t L_t + Σ auxiliary losses; w_t = 1 where no weight is given."""

    options: WeightOptions

    def __call__(self, losses: Mapping[str, Tensor], step: int) -> Tensor:
        """Scalar weighted sum."""
        weights = self.options.weights
        return torch.stack(
            [weights.get(name.removeprefix(PREFIX), 1.0) * loss for name, loss in losses.items()]
        ).sum()


class LearnedUncertainty(SummingCombiner):
    """L = Σ exp(−u_t) L_t + u_t / 2 + Σ auxiliary losses; u_t = log σ_t² is learned. Kendall et al., eq. 10.

    The second term is that of every task of the run, also where a micro-batch lacks the task: it counts once
    a step, however the rows are split, and a task that few batches have settles at the larger weight.
    """

    def __init__(self, options: Options) -> None:
        super().__init__(options)
        self.log_variances: dict[str, nn.Parameter] = {}

    def attach(self, run: TrainingRun) -> None:
        """Make one log variance, scalar float32, for each task."""
        self.log_variances = {f"{PREFIX}{task}": nn.Parameter(torch.zeros(())) for task in run.tasks}

    def __call__(self, losses: Mapping[str, Tensor], step: int) -> Tensor:
        """Scalar."""
        weighed = torch.stack([self._weighed(name, loss) for name, loss in losses.items()]).sum()
        return weighed + torch.stack(list(self.log_variances.values())).sum() / 2

    def parameters(self) -> Iterable[nn.Parameter]:
        """The log variances."""
        return self.log_variances.values()

    def state_dict(self) -> dict[str, Any]:
        """The log variances by task."""
        return {name: parameter.detach().clone() for name, parameter in self.log_variances.items()}

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """In place: the optimizer holds the parameters."""
        for name, parameter in self.log_variances.items():
            parameter.copy_(state[name])

    def _weighed(self, name: str, loss: Tensor) -> Tensor:
        if name not in self.log_variances:
            return loss
        return torch.exp(-self.log_variances[name]) * loss
