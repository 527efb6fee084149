"""The form in which an adapter is published, where that is one stock PEFT computes.

A change that is scaling · B A everywhere is published as exactly that, whatever method trained it: gateways
apply it as plain LoRA, without the plugin that made it.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from edgelora import __version__
from edgelora.capabilities import (
    Additive,
    Exportable,
    LowRank,
    Nested,
    PeftLayer,
    Prunable,
    StockQuantization,
    TaskAware,
)
from edgelora.engine.inject import adapter_tensors
from edgelora.layers import FrozenEmbedding, LowRankEmbedding, factors_are_exact, frozen_part
from edgelora.layers.authoring import SiteAdapter
from edgelora.layers.low_rank import factors_of
from edgelora.layers.nested import NestedLowRankLinear
from edgelora.options import AdapterOptions
from edgelora.parts import Part
from edgelora.plan import Plan
from edgelora.plan.part import PlannedPart
from edgelora.protocols import Factors, Site

LINEAR_NAMES = ("lora_A.weight", "lora_B.weight")
EMBEDDING_NAMES = ("lora_embedding_A", "lora_embedding_B")
"""Of A and B in PEFT's file, after the site's."""


@dataclass(frozen=True, slots=True)
class PeftForm:
    """An adapter as PEFT holds it.

    Attributes:
        tensors: ``"<site>.lora_A.weight"`` (rank, in), ``"<site>.lora_B.weight"`` (out, rank) and what
            ``settings`` bring; of an embedding ``"<site>.lora_embedding_A"`` (rank, tokens) and ``_B``
            (width, rank); of other types than LoRA, theirs.
        ranks: By site.
        alphas: By site; the scaling is alpha / rank. Other types than LoRA have none.
        settings: Fields of PEFT's configuration besides; empty for plain LoRA.
        peft_type: As PEFT spells it.
        peft_versions: Releases of PEFT that compute it (PEP 440).
        nested: Whether the first b components of each site are the adapter's rank b, scaled alpha / b.
    """

    tensors: Mapping[str, Tensor]
    ranks: Mapping[str, int]
    alphas: Mapping[str, float]
    settings: Mapping[str, Any]
    peft_type: str = "LORA"
    peft_versions: str = ">=0.18"
    nested: bool = False


@torch.no_grad()
def peft_form(layers: Mapping[str, nn.Module], plan: Plan) -> PeftForm | None:
    """The adapter in PEFT's form; None where stock PEFT would compute something else on this base."""
    if not layers or not has_stock_base(plan):
        return None
    routed = [layer for layer in layers.values() if isinstance(layer, TaskAware)]
    if routed and len(plan.tasks) > 1:
        return None
    for layer in routed:
        layer.route(torch.tensor(0))
    return form_of(layers)


@torch.no_grad()
def form_of(layers: Mapping[str, nn.Module]) -> PeftForm | None:
    """What the layers compute as they are set now, over whatever base; None where PEFT has no form for it."""
    if all(_is_product(layer) for layer in layers.values()):
        factors = {site: _factors(layer) for site, layer in layers.items()}
        embeddings = {site for site, layer in layers.items() if _is_lookup(layer)}
        nested = all(_is_nested(layers[site], each) for site, each in factors.items())
        return _plain(factors, embeddings, nested=nested)
    if all(isinstance(layer, Exportable) for layer in layers.values()):
        return _with_settings(layers)
    return None


def has_stock_base(plan: Plan) -> bool:
    """Whether transformers makes the plan's base by itself, without the quantizer's plugin."""
    quantizer = plan.build("quantizer")
    return isinstance(quantizer, StockQuantization) and quantizer.quantization_config() is not None


def plain_lora_part(config: Mapping[str, Any]) -> PlannedPart:
    """The adapter part that rebuilds plain LoRA from a component's ``config``; it is no plugin's."""
    nested = bool(config.get("nested"))
    target = f"{__name__}:{'PublishedNested' if nested else 'PublishedLora'}"
    options = AdapterOptions(
        rank=config["r"],
        alpha=config["alpha"],
        rank_pattern=config.get("rankPattern", {}),
        alpha_pattern=config.get("alphaPattern", {}),
        target_modules=list(config["targetModules"]),
    )
    abilities = ("Additive", "LowRank", "Nested" if nested else "WrapsEmbeddings")
    part = Part(name="lora", target=target, abilities=abilities)
    return PlannedPart("adapter", part.name, "edgelora", "edgelora", __version__, target, options, part)


class PublishedLora(SiteAdapter):
    """y = base(x) + alpha / rank · B A x, as published."""

    def wrap_embedding(self, base: FrozenEmbedding, site: Site) -> nn.Module:
        """The same of looked-up rows."""
        return LowRankEmbedding(base, site)


class PublishedNested(SiteAdapter):
    """The same, which also works with its first components alone: one adapter for every lower rank."""

    layer = NestedLowRankLinear


def _is_product(layer: nn.Module) -> bool:
    known = isinstance(layer, LowRank) and (isinstance(layer, Additive) or _is_lookup(layer))
    return known and factors_are_exact(layer)


def _is_lookup(layer: nn.Module) -> bool:
    return isinstance(frozen_part(layer), FrozenEmbedding)


def _factors(layer: Any) -> Factors:
    A, B, scaling = layer.factors()
    if isinstance(layer, Prunable):
        used = A.any(dim=1) & B.any(dim=0)
        A, B = A[used], B[:, used]
    if len(A) > min(A.shape[1], len(B)):
        # More components than the weight is wide: the product itself is smaller, and no rank is too large.
        return Factors(*factors_of(B.float() @ A.float()), scaling)
    return Factors(A, B, scaling)


def _is_nested(layer: nn.Module, whole: Factors) -> bool:
    """Whether ``layer`` computes at a lower rank b with A[:b], B[:, :b] and alpha / b."""
    if not isinstance(layer, Nested) or not isinstance(layer, LowRank) or len(whole.A) != layer.rank:
        return False
    rank = layer.rank
    try:
        return all(_are_first(layer, b, whole) for b in {1, (rank + 1) // 2})
    finally:
        layer.set_rank(rank)


def _are_first(layer: Any, b: int, whole: Factors) -> bool:
    layer.set_rank(b)
    A, B, scaling = layer.factors()
    return (
        torch.equal(A, whole.A[:b])
        and torch.equal(B, whole.B[:, :b])
        and math.isclose(scaling * b, whole.scaling * len(whole.A))
    )


def _plain(factors: Mapping[str, Factors], embeddings: Collection[str], *, nested: bool) -> PeftForm:
    # PEFT knows no rank 0: sites whose every component was pruned are left out, unless that is all of them.
    kept = {site: each for site, each in factors.items() if len(each.A)}
    if not kept:
        kept = {
            site: Factors(A.new_zeros(1, A.shape[1]), B.new_zeros(B.shape[0], 1), scaling)
            for site, (A, B, scaling) in factors.items()
        }
    tensors = {}
    for site, each in kept.items():
        A, B = EMBEDDING_NAMES if site in embeddings else LINEAR_NAMES
        tensors |= {f"{site}.{A}": each.A, f"{site}.{B}": each.B}
    ranks = {site: len(each.A) for site, each in kept.items()}
    alphas = {site: each.scaling * ranks[site] for site, each in kept.items()}
    return PeftForm(tensors, ranks, alphas, {}, nested=nested)


def _with_settings(layers: Mapping[str, Any]) -> PeftForm | None:
    held: dict[str, PeftLayer] = {site: layer.peft_layer() for site, layer in layers.items()}
    kinds = [(dict(each.settings), each.peft_type, each.peft_versions) for each in held.values()]
    tensors = {
        f"{site}.{name}": tensor for site, each in held.items() for name, tensor in each.tensors.items()
    }
    # `apply` loads the layers from this form; what does not name all they hold cannot bring them back.
    names = {name.removesuffix(".weight") for name in tensors}
    if any(each != kinds[0] for each in kinds) or names != adapter_tensors(layers).keys():
        return None
    ranks = {site: each.rank for site, each in held.items()}
    # PEFT 0.21.2 reads rank_pattern for LoRA alone: its HiRA makes every layer of the rank r.
    if kinds[0][1] != "LORA" and len(set(ranks.values())) > 1:
        return None
    return PeftForm(tensors, ranks, {site: each.alpha for site, each in held.items()}, *kinds[0])
