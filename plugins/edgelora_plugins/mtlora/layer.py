"""The MTLoRA adapter: rows of different tasks share a batch and the shared factors."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from edgelora.errors import PluginBug
from edgelora.layers import FrozenLinear, LowRankLinear
from edgelora.layers.authoring import SiteAdapter
from edgelora.protocols import Factors, Site
from edgelora_plugins.mtlora.options import TaskLoraOptions
from edgelora_plugins.mtlora.route import Route


class TaskLoraLinear(LowRankLinear):
    """y = base(x) + s B A x + s_t B_t A_t x for a row of task t. MTLoRA, section 3.2.

    The tasks' factors are ``task_A_<task>`` (rank, in) and ``task_B_<task>`` (out, rank). Only those of tasks
    that are in the batch take part, so that the others get no gradient, not even zero, and no weight decay.

    Args:
        base: The frozen layer.
        site: Its place, with rank and alpha of the shared factors and the names of the tasks.
        options: Of the part.
        route: Shared by all layers of the adapter.
    """

    def __init__(self, base: FrozenLinear, site: Site, options: TaskLoraOptions, route: Route) -> None:
        super().__init__(base, site, dropout=options.dropout)
        ranks = [options.task_rank_pattern.get(task, options.task_rank) for task in site.task_names]
        self.tasks = site.task_names
        self.shared = options.mode == "matrixv2"
        if not self.shared:
            del self.lora_A, self.lora_B
        self.task_scaling = [options.task_alpha / rank for rank in ranks]
        add_task_factors(self, base, dict(zip(site.task_names, ranks, strict=True)))
        self.routing = route

    def route(self, task_ids: Tensor) -> None:
        """Set the task of each row; see `edgelora.capabilities.TaskAware`."""
        self.routing.set(task_ids, len(self.tasks))

    def delta(self, x: Tensor) -> Tensor:
        """The low-rank branches, one product for all of them: (batch, ..., in) -> (batch, ..., out)."""
        A, B, ranks = self._stacked()
        low = functional.linear(self.dropout(x), A.to(x.dtype))
        mask = self.routing.mask(ranks, x)
        if mask is not None:
            shared, own = low.split([low.shape[-1] - mask.shape[-1], mask.shape[-1]], dim=-1)
            low = torch.cat([shared, own * mask], dim=-1)
        return functional.linear(low, B.to(x.dtype))

    def factors(self) -> Factors:
        """Of the task every row is of: shared and own factors stacked, the scalings in B.

        Raises:
            PluginBug: The route is of single rows, for which there is no one product.
        """
        if not self.routing.is_single:
            raise PluginBug(
                "a layer routed row by row has no factors",
                fix="route every row to one task first: layer.route(torch.tensor(0))",
            )
        A, B, _ = self._stacked()
        return Factors(A, B, 1.0)

    def _stacked(self) -> tuple[Tensor, Tensor, list[int]]:
        """A (ranks, in), scaled B (out, ranks): shared, then the present tasks' own; the ranks of these."""
        present = self.routing.present
        As, Bs = task_factors(self, [self.tasks[task] for task in present])
        Bs = [B * self.task_scaling[task] for task, B in zip(present, Bs, strict=True)]
        ranks = [len(A) for A in As]
        if self.shared:
            As, Bs = [self.lora_A, *As], [self.lora_B * self.scaling, *Bs]
        return torch.cat(As), torch.cat(Bs, dim=1), ranks


class TaskLoraAdapter(SiteAdapter):
    """MTLoRA at every site, all of them under one route."""

    options: TaskLoraOptions

    def __init__(self, options: TaskLoraOptions) -> None:
        super().__init__(options)
        self.routing = Route()

    def wrap(self, base: FrozenLinear, site: Site) -> nn.Module:
        """Put shared and task-specific branches beside ``base``."""
        return TaskLoraLinear(base, site, self.options, self.routing)


def add_task_factors(layer: nn.Module, base: FrozenLinear, ranks: Mapping[str, int]) -> None:
    """Give ``layer`` A (rank, in) and B (out, rank) for each task, started as LoRA's; see `task_factors`."""
    # With a prefix, because a module refuses parameters called as its own members, and tasks may be called
    # "train" or "values".
    for task, rank in ranks.items():
        A = nn.Parameter(torch.empty(rank, base.in_features))
        nn.init.kaiming_uniform_(A, a=math.sqrt(5))
        layer.register_parameter(f"task_A_{task}", A)
        layer.register_parameter(f"task_B_{task}", nn.Parameter(torch.zeros(base.out_features, rank)))


def task_factors(layer: nn.Module, tasks: Iterable[str]) -> tuple[list[Tensor], list[Tensor]]:
    """The As and the Bs of some tasks, in their order."""
    pairs = [(getattr(layer, f"task_A_{task}"), getattr(layer, f"task_B_{task}")) for task in tasks]
    return [A for A, _ in pairs], [B for _, B in pairs]
