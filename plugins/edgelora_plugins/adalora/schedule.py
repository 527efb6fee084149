"""The rank scheduler of AdaLoRA."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from edgelora.capabilities import Prunable
from edgelora.layers.authoring import PassiveScheduler
from edgelora.protocols import TrainingRun
from edgelora_plugins.adalora.options import BudgetOptions


class BudgetScheduler(PassiveScheduler):
    """Keeps the components of highest importance over all sites, ever fewer of them. AdaLoRA, algorithm 1.

    A parameter's sensitivity is |θ · gradient|, θ after the update and the gradient clipped (equation 8); its
    score is the average sensitivity times the average uncertainty (equations 9 to 11). A component's score is
    the sum, over its parameters, of the mean score of its elements (equation 7). The budget falls from the
    ranks at the start to ``target_rank`` per site along a cubic (equation 12).
    """

    options: BudgetOptions

    def attach(self, layers: Mapping[str, nn.Module], optimizer: Optimizer, run: TrainingRun) -> None:
        """Take the layers and check that the schedule fits into the run.

        Raises:
            PlanError: The warmup and the final steps leave nothing between, or the target is above the start.
        """
        self.layers = {site: layer for site, layer in layers.items() if isinstance(layer, Prunable)}
        self.ranks = {
            site: next(parameter.shape[dim] for parameter, dim in layer.rank_components().values())
            for site, layer in self.layers.items()
        }
        self.total = run.total_steps
        self.warmup, self.final = self.options.phases(self.total)
        self.start = sum(self.ranks.values())
        self.target = self.options.target_rank * len(self.layers)
        self.options.check_target(self.start / len(self.layers))
        # In float32 whatever the adapter has: averages that decay slowly need its digits.
        self.sensitivity = {name: _zeros(parameter) for name, parameter, _ in self._parameters()}
        self.uncertainty = {name: _zeros(parameter) for name, parameter, _ in self._parameters()}
        self.keep: dict[str, Tensor] = {}

    def budget(self, step: int) -> int:
        """Components in use after ``step``, over all sites."""
        if step <= self.warmup:
            return self.start
        last = self.total - self.final
        if step >= last:
            return self.target
        left = 1 - (step - self.warmup) / (last - self.warmup)
        return int(self.target + (self.start - self.target) * left**3)

    def after_update(self, step: int) -> None:
        """Score, and prune where the schedule says so; once the ranks are fixed, hold them."""
        # Without final steps the ranks are fixed by the last one, or the adapter would be over its budget.
        fixed = min(self.total - self.final, self.total - 1)
        if step < self.total - self.final:
            self._score()
        if step == fixed or (self.warmup < step < fixed and step % self.options.every == 0):
            self.keep = self._choose(self.budget(step) if step < fixed else self.target)
            self._prune()
        elif step > fixed:
            self._prune()

    def rank_pattern(self) -> dict[str, int]:
        """Components that were kept, by site; empty before the first pruning."""
        return {site: int(keep.sum()) for site, keep in self.keep.items()}

    def state_dict(self) -> dict[str, Any]:
        """Averages and the components kept last."""
        return {"sensitivity": self.sensitivity, "uncertainty": self.uncertainty, "keep": dict(self.keep)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a `state_dict`."""
        for own, stored in ((self.sensitivity, "sensitivity"), (self.uncertainty, "uncertainty")):
            for name, average in own.items():
                average.copy_(state[stored][name])
        self.keep = {site: keep.to(self._device(site)) for site, keep in state["keep"].items()}

    @torch.no_grad()
    def _score(self) -> None:
        beta1, beta2 = self.options.beta1, self.options.beta2
        for name, parameter, _ in self._parameters():
            if parameter.grad is None:
                continue
            now = (parameter.float() * parameter.grad.float()).abs()
            average = self.sensitivity[name].mul_(beta1).add_(now, alpha=1 - beta1)
            self.uncertainty[name].mul_(beta2).add_((now - average).abs(), alpha=1 - beta2)

    def _choose(self, budget: int) -> dict[str, Tensor]:
        """The ``budget`` best components of all sites; those that tie with the first left out go too."""
        scores = {site: self._scores(site) for site in self.layers}
        everything = torch.cat([score.cpu() for score in scores.values()])
        dropped = len(everything) - budget
        if dropped <= 0:
            return {site: torch.ones_like(score, dtype=torch.bool) for site, score in scores.items()}
        threshold = everything.kthvalue(dropped).values
        return {site: score > threshold.to(score.device) for site, score in scores.items()}

    def _scores(self, site: str) -> Tensor:
        """Importance of each component of a site, (rank,)."""
        total = 0
        for name, (_, dim) in self.layers[site].rank_components().items():
            elements = self.sensitivity[f"{site}.{name}"] * self.uncertainty[f"{site}.{name}"]
            total = total + elements.movedim(dim, 0).flatten(1).mean(dim=1)
        return total

    def _prune(self) -> None:
        for site, keep in self.keep.items():
            self.layers[site].zero_ranks(keep)

    def _parameters(self) -> list[tuple[str, nn.Parameter, int]]:
        return [
            (f"{site}.{name}", parameter, dim)
            for site, layer in self.layers.items()
            for name, (parameter, dim) in layer.rank_components().items()
        ]

    def _device(self, site: str) -> torch.device:
        return next(parameter.device for parameter, _ in self.layers[site].rank_components().values())


def _zeros(parameter: Tensor) -> Tensor:
    return torch.zeros_like(parameter, dtype=torch.float32)
