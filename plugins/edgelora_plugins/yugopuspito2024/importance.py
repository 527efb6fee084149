"""Algorithm 4: layers learn by the size of their gradients."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module
from torch.optim import Optimizer

from edgelora.layers.authoring import PassiveScheduler
from edgelora.protocols import TrainingRun
from edgelora_plugins.yugopuspito2024.options import ImportanceOptions


class GradientImportance(PassiveScheduler):
    """w_i ← τ w_i + (1 − τ) s_i, s_i the metric of layer i's gradient, w_i = 1 at first. Algorithm 4.

    The paper multiplies the gradient by w_i. Adam divides by the gradient's own size, which undoes that: so
    w_i multiplies the layer's learning rate for the step instead. Under plain SGD that is the same. Gradients
    count as they are after clipping.
    """

    options: ImportanceOptions

    def attach(self, layers: Mapping[str, Module], optimizer: Optimizer, run: TrainingRun) -> None:
        """Every layer weighs 1."""
        self.optimizer = optimizer
        self.weights = dict.fromkeys((group["site"] for group in self._groups()), 1.0)
        self.rates: list[tuple[dict[str, Any], float]] = []

    def before_update(self, step: int) -> None:
        """Weigh the layers anew and set their rates for this step; without a gradient a weight stays."""
        decay = self.options.decay
        for site, score in self._scores().items():
            self.weights[site] = decay * self.weights[site] + (1 - decay) * score
        self.rates = [(group, group["lr"]) for group in self._groups()]
        for group, rate in self.rates:
            group["lr"] = rate * self.weights[group["site"]]

    def after_update(self, step: int) -> None:
        """Give the rates back, from which the learning-rate schedule goes on."""
        for group, rate in self.rates:
            group["lr"] = rate

    def state_dict(self) -> dict[str, Any]:
        """The weights by site."""
        return {"weights": dict(self.weights)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a `state_dict`."""
        self.weights.update(state["weights"])

    def _groups(self) -> list[dict[str, Any]]:
        """The parameter groups of sites: an optimizer makes new ones when it is resumed."""
        return [group for group in self.optimizer.param_groups if group["site"]]

    def _scores(self) -> dict[str, float]:
        """The metric of each layer that has a gradient."""
        gradients: dict[str, list[Tensor]] = {}
        for group in self._groups():
            found = [parameter.grad for parameter in group["params"] if parameter.grad is not None]
            gradients.setdefault(group["site"], []).extend(found)
        present = {site: _magnitude(each) for site, each in gradients.items() if each}
        if not present:
            return {}
        scores = torch.stack(list(present.values()))  # read at once: a GPU is waited for one time
        if self.options.metric == "relative":
            mean = scores.mean()
            scores = torch.where(mean > 0, scores / mean, torch.ones_like(scores))
        return dict(zip(present, scores.tolist(), strict=True))


def _magnitude(gradients: list[Tensor]) -> Tensor:
    """The mean absolute value of all their elements, float64."""
    total = torch.stack([gradient.abs().sum(dtype=torch.float64) for gradient in gradients]).sum()
    return total / sum(gradient.numel() for gradient in gradients)
