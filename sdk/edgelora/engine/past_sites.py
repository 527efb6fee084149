"""Which site has which factors of the adapters that came before."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from edgelora.engine.linears import shape_of
from edgelora.errors import PlanError, TensorsMismatch
from edgelora.layers.low_rank import factors_of
from edgelora.protocols import Factors, Site

Past = Mapping[str, tuple[Factors, ...]]
"""By site, oldest first; see `Site.past`."""


def with_past(sites: Sequence[Site], past: Past) -> list[Site]:
    """The sites with their past; one that no earlier adapter changed has none.

    Raises:
        PlanError: An earlier adapter changed a linear that is not adapted now: its change would be lost.
    """
    if left_out := sorted(past.keys() - {site.name for site in sites}):
        raise PlanError(
            f"an adapter of 'past' changes {left_out[0]}, which this one does not adapt "
            f"({len(left_out)} such linears): its change would be lost",
            fix="adapt all it adapts: widen adapter.target_modules or shorten exclude_modules",
        )
    return [dataclasses.replace(site, past=past.get(site.name, ())) for site in sites]


def within_rank(factors: Sequence[Factors]) -> tuple[Factors, ...]:
    """The same change; as one product, where the ranks add up to more than the weight has.

    So the past of however many adapters takes no more memory than twice the weight itself.
    """
    in_features, out_features = factors[0].A.shape[1], len(factors[0].B)
    if sum(len(each.A) for each in factors) <= min(in_features, out_features):
        return tuple(factors)
    # In double precision: what is kept for good is rounded once.
    change = sum((each.B.double() @ each.A.double()).mul_(each.scaling) for each in factors).float()
    return (Factors(*factors_of(change), 1.0),)


def past_to_load(config: Mapping[str, Any], linears: Mapping[str, nn.Module]) -> Past:
    """Zeros of the shapes of the past that an adapter's own tensors have, for layers to load these into.

    Args:
        config: Of the adapter's component.
        linears: Of the base, by name.

    Raises:
        TensorsMismatch: The base has no such linear, or one of fewer ranks.
    """
    found: dict[str, tuple[Factors, ...]] = {}
    for site, ranks in config.get("pastRanks", {}).items():
        linear = linears.get(site)
        if linear is None or sum(ranks) > min(shape_of(linear)):
            raise TensorsMismatch(
                f"the manifest gives {site} a past of ranks {list(ranks)}, which this base has no linear for",
                fix="use the base the adapter was trained on, or ask its publisher",
            )
        out, in_ = shape_of(linear)
        found[site] = tuple(Factors(torch.zeros(rank, in_), torch.zeros(out, rank), 1.0) for rank in ranks)
    return found
