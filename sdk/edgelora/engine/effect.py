"""Whether an adapter does anything."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from edgelora.capabilities import CrossSite, TaskAware
from edgelora.layers import FrozenLinear


@torch.no_grad()
def changes_something(layers: Mapping[str, nn.Module], task_count: int) -> bool:
    """Whether any layer computes something else than its base, for any task, on random numbers.

    Layers that read other sites' inputs cannot be asked alone, and are believed.
    """
    return any(_changes(layer, task) for layer in layers.values() for task in range(task_count))


def _changes(layer: nn.Module, task: int) -> bool:
    if isinstance(layer, CrossSite):
        return True
    base = next(part for part in layer.modules() if isinstance(part, FrozenLinear))
    dtype = torch.float32 if base.weight is None else base.weight.dtype
    device = next(iter([*base.parameters(), *base.buffers()])).device
    x = torch.randn(1, 4, base.in_features, generator=torch.Generator().manual_seed(0)).to(device, dtype)
    if isinstance(layer, TaskAware):
        layer.route(torch.tensor(task, device=device))
    return not torch.equal(layer(x), base(x))
