"""MTLoRA's mode "addition": all tasks' changes, normalized and added for every row."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from edgelora.layers import FrozenLinear
from edgelora.layers.authoring import SiteAdapter
from edgelora.protocols import Site
from edgelora_plugins.mtlora.layer import add_task_factors, task_factors


class TaskSumLinear(nn.Module):
    """y = p + LayerNorm(Σ_t y_t) with p = base(x) and y_t = p + s B_t A_t dropout(x).

    Nothing is shared between tasks and every row gets the same function, whatever its task; it is not linear
    and does not start at the base.

    Args:
        base: The frozen layer.
        site: Its place, with rank and alpha of each task and the names of the tasks.
        dropout: Probability with which an input element of the low-rank branches is zeroed while training.
    """

    def __init__(self, base: FrozenLinear, site: Site, *, dropout: float = 0.0) -> None:
        super().__init__()
        self.base = base
        self.scaling = site.alpha / site.rank
        self.dropout = nn.Dropout(dropout) if dropout else nn.Identity()
        self.tasks = site.task_names
        add_task_factors(self, base, dict.fromkeys(site.task_names, site.rank))
        self.norm = nn.LayerNorm(base.out_features)

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) -> (..., out), in the dtype of the input."""
        plain = self.base(x)
        As, Bs = task_factors(self, self.tasks)
        A, B = torch.cat(As).to(x.dtype), torch.cat(Bs, dim=1).to(x.dtype)
        change = self.scaling * functional.linear(functional.linear(self.dropout(x), A), B)
        total = len(self.tasks) * plain + change
        return plain + self.norm(total.to(self.norm.weight.dtype)).to(x.dtype)


class TaskSumAdapter(SiteAdapter):
    """The sum of all tasks at every site."""

    layer = TaskSumLinear
