"""The rank an adapter computes with, where it works at several."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from edgelora.capabilities import Nested
from edgelora.errors import PlanError
from edgelora.plan.able import adapter_that_is


def set_rank(layers: Mapping[str, nn.Module], rank: int, adapter: str) -> None:
    """Let each layer compute with its first ``rank`` components, or with all where it has fewer.

    What reads `edgelora.capabilities.LowRank.factors` gets those of that rank: merge and export too.

    Args:
        layers: All adapted layers, by site.
        rank: From 1 to the largest that any layer has.
        adapter: How errors name it.

    Raises:
        PlanError: The layers were not trained to work so, or none has so many components.
    """
    nested = [layer for layer in layers.values() if isinstance(layer, Nested)]
    if not nested or len(nested) < len(layers):
        raise PlanError(
            f"adapter {adapter} works at the rank it was trained at, and at no other",
            fix=f"leave --rank out, or train again with {adapter_that_is(Nested.__name__)}",
        )
    largest = max(layer.max_rank for layer in nested)
    if not 1 <= rank <= largest:
        raise PlanError(f"rank {rank} is none of adapter {adapter}", fix=f"choose a rank from 1 to {largest}")
    for layer in nested:
        layer.set_rank(min(rank, layer.max_rank))
