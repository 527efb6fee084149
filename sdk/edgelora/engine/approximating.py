"""Plain low-rank layers in the place of some that no low-rank product computes exactly."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from edgelora.capabilities import ApproximatelyLowRank, FoldsIntoModel, LowRank, Mergeable
from edgelora.engine.apply import Adapted, probe_logits
from edgelora.engine.inject import replace_module
from edgelora.engine.whole_model import WholeModel
from edgelora.errors import ExportUnsupported
from edgelora.layers import FrozenLinear, LowRankLinear, frozen_part
from edgelora.protocols import Factors, Site


@torch.no_grad()
def approximate(adapted: Adapted, way: str) -> float:
    """Let ``adapted`` compute by low-rank products what it computes otherwise, as near as ``way`` comes.

    After it the model is one like LoRA's, and whatever reads factors can have it.

    Args:
        adapted: A model whose adapter has `edgelora.capabilities.ApproximatelyLowRank` layers.
        way: One of their ways.

    Returns:
        ‖approximated − adapted‖ / ‖adapted − base‖ of a probe's logits: 0 where nothing is lost. The probe is
        no text, and norms seen in training do not suit it.

    Raises:
        ExportUnsupported: The adapter has no such way, needs none, or has not seen what the way takes.
    """
    model = adapted.model
    chosen = {name: each for name, each in adapted.layers.items() if isinstance(each, ApproximatelyLowRank)}
    ways = next(iter(chosen.values())).approximations() if chosen else ()
    if way not in ways:
        raise ExportUnsupported(
            f"adapter {adapted.manifest.identity.name} is not approximated {way}",
            fix=f"choose one of: {', '.join(ways)}" if ways else _unapproximated(adapted.layers),
        )
    # All of them first: a layer may look at those before it.
    factors = {name: layer.approximate_factors(way) for name, layer in chosen.items()}
    exact = probe_logits(model)
    for name in adapted.layers:
        replace_module(model, adapted.layers[name], frozen_part(adapted.layers[name]))
    alone = probe_logits(model)
    for name in factors:
        adapted.layers[name] = _plain(name, frozen_part(adapted.layers[name]), factors[name])
    for layer in adapted.layers.values():
        replace_module(model, frozen_part(layer), layer)
    return float((probe_logits(model) - exact).norm() / (exact - alone).norm())


def _unapproximated(layers: Mapping[str, nn.Module]) -> str:
    """What to do with an adapter that has no approximations."""
    if isinstance(layers, WholeModel):
        folds = isinstance(layers.adapter, FoldsIntoModel)
    else:
        folds = all(isinstance(layer, LowRank | Mergeable) for layer in layers.values())
    if folds:
        return "leave --approximate out: it needs no approximation"
    return "apply it unmerged, for nothing folds it: edgelora generate --adapter"


def _plain(name: str, base: FrozenLinear, factors: Factors) -> nn.Module:
    A, B, scaling = factors
    site = Site(name, 0, name.rpartition(".")[2], rank=len(A), alpha=scaling * len(A))
    with torch.random.fork_rng(devices=[]):
        layer = LowRankLinear(base, site)
    layer.lora_A.data, layer.lora_B.data = A.detach().float(), B.detach().float()
    return layer.eval().requires_grad_(False)
