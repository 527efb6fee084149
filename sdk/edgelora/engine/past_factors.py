"""The changes that earlier adapters make, read as factors."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import nn

from edgelora.engine.apply import load_tensors, read_tensors, take_off
from edgelora.engine.inject import inject, plain_linears
from edgelora.engine.past_sites import Past, past_to_load, within_rank
from edgelora.engine.published import plain_lora_part
from edgelora.engine.whole_model import WholeModel
from edgelora.errors import CombinationError
from edgelora.layers import factors_are_exact
from edgelora.manifest import Base
from edgelora.manifest.base_match import check_base
from edgelora.parts import Kind
from edgelora.plan import Plan, PlannedPart
from edgelora.plan.past import PastAdapter, told_of
from edgelora.protocols import Factors


def check_past(plan: Plan, base: Base, place: Path) -> None:
    """Refuse a base that an earlier adapter was not trained on.

    Raises:
        WrongBase: Names the adapter.
    """
    for past in plan.past:
        with told_of(past):
            check_base(past.manifest.base, base, str(place))


@torch.no_grad()
def read_past(model: nn.Module, plan: Plan) -> Past:
    """Factors of the plan's earlier adapters by site, oldest first: float32, on the CPU, scaling 1.

    Each adapter is put on the model, asked, and taken off, whatever method made it. On a model without
    memory the factors have shapes and no values.

    Args:
        model: The base, without an adapter.
        plan: Names them.

    Raises:
        TensorsMismatch: The tensors of one do not fit.
        CombinationError: The factors of one are not what its layers compute.
    """
    found: dict[str, tuple[Factors, ...]] = {}
    for past in plan.past:
        for site, factors in _factors_of(past, model, plan).items():
            found[site] = (*found.get(site, ()), factors)
    return {site: within_rank(factors) for site, factors in found.items()}


@contextmanager
def taken_off(model: nn.Module, layers: Mapping[str, nn.Module]) -> Iterator[nn.Module]:
    """The base alone inside, which is what ``with`` gives; the adapter is back afterwards."""
    adapted = set(layers.values())
    places = {name: part for name, part in model.named_modules(remove_duplicate=False) if part in adapted}
    take_off(model, layers)
    try:
        yield layers.base if isinstance(layers, WholeModel) else model
    finally:
        if isinstance(layers, WholeModel):
            layers.put_back()
        for name, layer in places.items():
            model.set_submodule(name, layer)


def _factors_of(past: PastAdapter, model: nn.Module, plan: Plan) -> dict[str, Factors]:
    config, name = past.component.config, past.reference
    layers = inject(model, _plan_of(past, plan), past=past_to_load(config, plain_linears(model)))
    try:
        load_tensors(layers, read_tensors(past.folder, past.manifest), name)
        return {site: _product(layer, f"{site} of {name}") for site, layer in layers.items()}
    finally:
        take_off(model, layers)


def _plan_of(past: PastAdapter, plan: Plan) -> Plan:
    """The plan with an earlier adapter in the place of its own."""
    config = past.component.config
    part = past.part or plain_lora_part(config)
    targets = {"target_modules": list(config["targetModules"])}
    if "exclude_modules" in type(part.options).model_fields:
        targets["exclude_modules"] = []
    parts: dict[Kind, PlannedPart] = {
        **plan.parts,
        "adapter": dataclasses.replace(part, options=part.options.model_copy(update=targets)),
    }
    # In float32, whatever the new one learns in: these are read, and nothing of them may be rounded.
    train = plan.recipe.train.model_copy(update={"fused": False, "adapter_dtype": "float32"})
    return dataclasses.replace(
        plan,
        recipe=plan.recipe.model_copy(update={"train": train}),
        parts=MappingProxyType(parts),
        tasks=tuple(config.get("taskNames", ())) or ("main",),
        past=(),
    )


def _product(layer: Any, where: str) -> Factors:
    A, B, scaling = layer.factors()
    if not A.is_meta and not factors_are_exact(layer):
        raise CombinationError(
            f"the factors of {where} ({type(layer).__name__}) are not what it computes",
            fix="leave it out of 'past', and tell its author: factors() must be what forward computes",
        )
    device = A.device if A.is_meta else torch.device("cpu")
    return Factors(A.detach().float().to(device), (B.detach().float() * scaling).to(device), 1.0)
