"""A short training run under a rank scheduler, and what can be seen of it."""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from edgelora.capabilities import LowRank, Nested, Prunable
from edgelora.protocols import RankScheduler
from edgelora.testing.subject import Subject

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
_OPTIMIZER_HOOKS = ("_optimizer_step_pre_hooks", "_optimizer_step_post_hooks")


@dataclass(slots=True)
class Run:
    """A short training run under the scheduler.

    Attributes:
        patterns: ``rank_pattern()`` after each step.
    """

    subject: Subject
    scheduler: RankScheduler
    optimizer: Optimizer
    patterns: list[dict[str, int]] = field(default_factory=list)

    def take(self, step: int) -> None:
        """One optimizer step, the hooks called as the engine calls them."""
        names = ("before_forward", "before_update", "after_update")
        self.subject.step(step, self.optimizer, {name: getattr(self.scheduler, name) for name in names})
        self.patterns.append(dict(self.scheduler.rank_pattern()))


def hook_counts(model: nn.Module, optimizer: Optimizer) -> list[int]:
    """Hooks and replaced methods, module by module and of the optimizer."""
    modules = [len(getattr(module, name)) for module in model.modules() for name in _HOOKS]
    replaced = [int("forward" in vars(module)) for module in model.modules()]
    return [
        *modules,
        *replaced,
        *(len(getattr(optimizer, name)) for name in _OPTIMIZER_HOOKS),
        int("step" in vars(optimizer)),
    ]


@torch.no_grad()
def ranks_in_use(subject: Subject) -> dict[str, int]:
    """Components of which no parameter is all zero, where a layer's rank may change and can be counted."""
    found = {}
    for site, layer in subject.layers.items():
        if isinstance(layer, Prunable):
            used = [
                parameter.movedim(dim, 0).flatten(1).any(dim=1)
                for parameter, dim in layer.rank_components().values()
            ]
            found[site] = int(torch.stack(used).all(dim=0).sum())
        elif isinstance(layer, Nested) and isinstance(layer, LowRank):
            A, B, _ = layer.factors()
            found[site] = int((A.any(dim=1) & B.any(dim=0)).sum())
    return found


def through_a_file(state: dict[str, Any]) -> dict[str, Any]:
    """As a checkpoint gives it back: copied, and nothing in it but tensors and plain values."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    loaded: dict[str, Any] = torch.load(buffer, weights_only=True)
    return loaded
