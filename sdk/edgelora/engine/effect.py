"""Whether an adapter does anything."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from edgelora.capabilities import CrossSite, TaskAware
from edgelora.layers import FrozenEmbedding, frozen_part

TOKENS = 4096
"""Rows of an embedding that are looked up at the same time."""


@torch.no_grad()
def changes_something(layers: Mapping[str, nn.Module], task_count: int) -> bool:
    """Whether any layer computes something else than its base, for any task, on random numbers.

    Layers that read other sites' inputs cannot be asked alone, and are believed.
    """
    return any(_changes(layer, task) for layer in layers.values() for task in range(task_count))


@torch.no_grad()
def embeds_alike(embedding: nn.Module, other: nn.Module, tokens: int) -> bool:
    """Whether two embeddings give every one of ``tokens`` ids the same vector."""
    if embedding is other:
        return True
    ids = torch.arange(tokens, device=next(embedding.parameters()).device)
    return all(torch.equal(embedding(some), other(some)) for some in ids.split(TOKENS))


def _changes(layer: nn.Module, task: int) -> bool:
    if isinstance(layer, CrossSite):
        return True
    base = frozen_part(layer)
    device = next(iter([*base.parameters(), *base.buffers()])).device
    if isinstance(base, FrozenEmbedding):
        every_token = torch.arange(base.num_embeddings, device=device)
        return any(not torch.equal(layer(some), base(some)) for some in every_token.split(TOKENS))
    dtype = torch.float32 if base.weight is None else base.weight.dtype
    x = torch.randn(1, 4, base.in_features, generator=torch.Generator().manual_seed(0)).to(device, dtype)
    if isinstance(layer, TaskAware):
        layer.route(torch.tensor(task, device=device))
    return not torch.equal(layer(x), base(x))
