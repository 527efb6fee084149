"""Puts adapter layers around the linears of any model."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn

from edgelora.capabilities import AdaptsModel, WantsSource
from edgelora.errors import CombinationError, PlanError, PluginBug
from edgelora.layers import FrozenLinear
from edgelora.plan import Plan
from edgelora.protocols import Site


def inject(model: nn.Module, plan: Plan) -> dict[str, nn.Module]:
    """Freeze ``model`` and wrap the linears the recipe's ``target_modules`` name.

    Works on any module with linears; nothing here depends on an architecture. Linears that no quantizer has
    frozen yet are frozen as they are.

    Returns:
        The adapted layers by site name, in the order of the model.

    Raises:
        PlanError: A target, or a pattern, names no linear.
        PluginBug: The adapter returned something that is not a module.
    """
    adapter = plan.build("adapter")
    for ability in (AdaptsModel, WantsSource):
        if isinstance(adapter, ability):
            raise CombinationError(
                f"adapter {plan.parts['adapter'].name!r} needs {ability.__name__}, which this edgelora does "
                "not serve",
                fix="use an adapter that wraps linears",
            )
    model.requires_grad_(False)
    linears = _linears(model)
    sites = choose_sites(linears, plan)
    layers: dict[str, nn.Module] = {}
    for site in sites:
        linear = linears[site.name]
        base = linear if isinstance(linear, FrozenLinear) else FrozenLinear.of(linear)
        layer = adapter.wrap(base, site)
        if not isinstance(layer, nn.Module):
            raise PluginBug(
                f"adapter {plan.parts['adapter'].name!r} returned {type(layer).__name__} for {site.name}",
                fix="return an nn.Module from wrap",
            )
        _replace(model, linear, layer)
        layers[site.name] = layer
    adapter.link(layers)
    dtype = getattr(torch, plan.recipe.train.adapter_dtype)
    for site in sites:
        device = _device(linears[site.name])
        for parameter in layers[site.name].parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.to(device=device, dtype=dtype)
    return layers


def choose_sites(linears: Mapping[str, nn.Linear], plan: Plan) -> list[Site]:
    """The sites a plan adapts among ``linears``, with their ranks and alphas.

    Raises:
        PlanError: A target, an exclusion or a pattern names no linear.
    """
    options = plan.parts["adapter"].options.model_dump()
    rank_pattern = options.get("rank_pattern", {})
    alpha_pattern = options.get("alpha_pattern", {})
    targets = options["target_modules"]
    wanted = list(linears) if targets == "all-linear" else _matching(linears, targets, "target_modules")
    excluded = set(_matching(linears, options.get("exclude_modules", []), "exclude_modules"))
    chosen = [name for name in wanted if name not in excluded]
    if not chosen:
        raise PlanError("no linear is left to adapt", fix="widen target_modules or shorten exclude_modules")
    for pattern, field in ((rank_pattern, "rank_pattern"), (alpha_pattern, "alpha_pattern")):
        _matching(dict.fromkeys(chosen), pattern, field)
    sites = [
        Site(
            name=name,
            depth=depth,
            kind=name.rpartition(".")[2],
            rank=_resolve(name, rank_pattern, options["rank"]),
            alpha=_resolve(name, alpha_pattern, options["alpha"]),
            task_names=plan.tasks,
        )
        for depth, name in enumerate(chosen)
    ]
    for site in sites:
        _check_rank(site, linears[site.name])
    return sites


def unreachable_parameters(model: nn.Module, layers: Mapping[str, nn.Module]) -> list[str]:
    """Names of weights no adapter of this kind can reach, such as experts fused into one tensor.

    These are parameters of two or more dimensions that belong to no linear and no embedding.
    """
    within_reach = [m for m in model.modules() if isinstance(m, nn.Linear | nn.Embedding)]
    reached = {id(weight) for module in [*layers.values(), *within_reach] for weight in module.parameters()}
    return [
        name
        for name, parameter in model.named_parameters()
        if parameter.dim() >= 2 and id(parameter) not in reached
    ]


def trainable_parameters(layers: Mapping[str, nn.Module]) -> dict[str, nn.Parameter]:
    """Trainable parameters as ``"<site>.<name>"``, in the order of the layers; shared ones once."""
    found: dict[str, nn.Parameter] = {}
    seen: set[int] = set()
    for site, layer in layers.items():
        for name, parameter in layer.named_parameters():
            if parameter.requires_grad and id(parameter) not in seen:
                seen.add(id(parameter))
                found[f"{site}.{name}"] = parameter
    return found


def adapter_tensors(layers: Mapping[str, nn.Module]) -> dict[str, torch.Tensor]:
    """All state of the adapter, frozen tensors included, as ``"<site>.<name>"``; never the base's."""
    tensors: dict[str, torch.Tensor] = {}
    for site, layer in layers.items():
        of_base = {
            f"{name}." for name, module in layer.named_modules() if name and isinstance(module, FrozenLinear)
        }
        for name, tensor in layer.state_dict().items():
            if not name.startswith(tuple(of_base)):
                tensors[f"{site}.{name}"] = tensor
    return tensors


def _linears(model: nn.Module) -> dict[str, nn.Linear]:
    head: Any = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and module is not head
    }


def _matching(linears: Iterable[str], patterns: Iterable[str], field: str) -> list[str]:
    names = list(linears)
    chosen: set[str] = set()
    for pattern in patterns:
        found = [name for name in names if name == pattern or name.endswith("." + pattern)]
        if not found:
            kinds = sorted({name.rpartition(".")[2] for name in names})
            near = difflib.get_close_matches(pattern, [*kinds, *names], n=1)
            raise PlanError(
                f"{field}: {pattern!r} names no linear of this model",
                fix=f"did you mean {near[0]!r}?" if near else f"use one of: {', '.join(kinds)}",
            )
        chosen.update(found)
    return [name for name in names if name in chosen]


def _resolve(name: str, pattern: Mapping[str, Any], default: Any) -> Any:
    """The value of the longest matching pattern: a full name wins over a suffix."""
    matching = [key for key in pattern if name == key or name.endswith("." + key)]
    return pattern[max(matching, key=len)] if matching else default


def _check_rank(site: Site, linear: nn.Linear) -> None:
    smallest = min(linear.out_features, linear.in_features)
    if site.rank > smallest:
        raise PlanError(
            f"rank {site.rank} does not fit {site.name}, whose weight is "
            f"({linear.out_features}, {linear.in_features})",
            fix=f"choose a rank from 1 to {smallest}, or leave {site.name} out of target_modules",
        )


def _replace(model: nn.Module, old: nn.Module, new: nn.Module) -> None:
    # A linear may stand at several places of the model; all of them get the adapted one.
    places = [name for name, module in model.named_modules(remove_duplicate=False) if module is old]
    for place in places:
        model.set_submodule(place, new)


def _device(linear: nn.Linear) -> torch.device:
    return next(iter([*linear.parameters(), *linear.buffers()])).device
