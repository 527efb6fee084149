"""Puts adapter layers around the linears of any model."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from edgelora.capabilities import AdaptsModel, NamesTargets, WantsSource, clashes
from edgelora.engine.embeddings import embeddings_for, freeze_embedding
from edgelora.engine.hot_path import use_hot_path
from edgelora.engine.linears import LINEARS, freeze, is_linear, shape_of
from edgelora.engine.past_sites import Past, with_past
from edgelora.engine.whole_model import FROZEN, WholeModel, adapt_whole, modules_of, settle_modules
from edgelora.errors import PlanError, PluginBug
from edgelora.layers import FrozenLinear
from edgelora.module_names import endings
from edgelora.plan import Plan
from edgelora.protocols import Adapter, Site


def inject(
    model: nn.Module,
    plan: Plan,
    adapter: Adapter | None = None,
    source: Callable[[str], Tensor] | None = None,
    past: Past = MappingProxyType({}),
) -> Mapping[str, nn.Module]:
    """Freeze ``model`` and wrap the linears, and embeddings, that the recipe's ``target_modules`` name.

    Works on any module with linears; nothing here depends on an architecture. Linears that no quantizer has
    frozen yet are frozen as they are. An adapter that is `AdaptsModel` gets the model as a whole instead.

    Args:
        model: What to adapt, in place.
        plan: Names the adapter and its targets.
        adapter: The plan's adapter where it was built before; else it is built here.
        source: Reads unquantized weights by the linear's name, for an adapter that starts from them
            (`WantsSource`). Left out where tensors are loaded into the layers anyway.
        past: What `edgelora.engine.past_factors.read_past` read before anything was injected.

    Returns:
        The adapted layers by site name, in the order of the model; a `WholeModel`, which has none, of an
        adapter that is `AdaptsModel`.

    Raises:
        PlanError: A target, or a pattern, names no linear, or an embedding the adapter does not wrap; or an
            adapter of the past changes one that is not adapted now.
        PluginBug: The adapter returned something that is not a module, or whose members are misleading.
    """
    adapter = adapter or plan.build("adapter")
    model.requires_grad_(False)
    dtype = getattr(torch, plan.recipe.train.adapter_dtype)
    if isinstance(adapter, AdaptsModel):
        return adapt_whole(model, adapter, plan.parts["adapter"].name, dtype)
    found = plain_linears(model) | embeddings_for(adapter, model, plan)
    places = {name: found[name] for name, _ in model.named_modules() if name in found}
    sites = with_past(choose_sites(places, plan, adapter), past)
    layers: dict[str, nn.Module] = {}
    for site in sites:
        place = places[site.name]
        layer = _wrap(adapter, place, site, source)
        if not isinstance(layer, nn.Module):
            raise PluginBug(
                f"adapter {plan.parts['adapter'].name!r} returned {type(layer).__name__} for {site.name}",
                fix="return an nn.Module from wrap",
            )
        if clash := clashes(layer):
            raise PluginBug(
                f"{type(layer).__name__} of adapter {plan.parts['adapter'].name!r} has a member called as "
                f"{clash[0]}, which is no method",
                fix="give it another name: edgelora tells what a layer can do by the names of its methods",
            )
        replace_module(model, place, layer)
        layers[site.name] = layer
    adapter.link(layers)
    for site in sites:
        settle_modules(layers[site.name].modules(), _device(places[site.name]), dtype)
    if plan.recipe.train.fused:
        use_hot_path(layers)
    return layers


def _wrap(
    adapter: Any, place: nn.Module, site: Site, source: Callable[[str], Tensor] | None
) -> nn.Module | None:
    if isinstance(place, nn.Embedding):
        return adapter.wrap_embedding(freeze_embedding(place, site.name), site)
    base = freeze(place)
    if source is not None and isinstance(adapter, WantsSource):
        layer = adapter.wrap_source(base, site, source(site.name).to(_device(place)))
    else:
        layer = adapter.wrap(base, site)
    base.release()  # it may have been read for the start
    return layer


def choose_sites(places: Mapping[str, nn.Module], plan: Plan, adapter: Any = None) -> list[Site]:
    """The sites a plan adapts among linears and embeddings, with their ranks and alphas.

    ``all-linear`` takes no embedding; any other word than that is the adapter's own.

    Raises:
        PlanError: A target, an exclusion or a pattern names no linear.
    """
    options = plan.parts["adapter"].options.model_dump()
    rank_pattern = options.get("rank_pattern", {})
    alpha_pattern = options.get("alpha_pattern", {})
    targets = options["target_modules"]
    linears = [name for name, place in places.items() if isinstance(place, LINEARS)]
    if targets == "all-linear":
        wanted = linears
    elif isinstance(targets, str) and isinstance(adapter, NamesTargets):
        wanted = adapter.named_targets(targets, linears)
    else:
        wanted = matching(places, targets, "target_modules")
    excluded = set(matching(places, options.get("exclude_modules", []), "exclude_modules"))
    chosen = [name for name in wanted if name not in excluded]
    if not chosen:
        raise PlanError("no linear is left to adapt", fix="widen target_modules or shorten exclude_modules")
    for pattern, field in ((rank_pattern, "rank_pattern"), (alpha_pattern, "alpha_pattern")):
        matching(dict.fromkeys(chosen), pattern, field)
    sites = [
        Site(
            name=name,
            depth=depth,
            kind=name.rpartition(".")[2],
            rank=_resolve(name, rank_pattern, options.get("rank", 0)),
            alpha=_resolve(name, alpha_pattern, options.get("alpha", 0.0)),
            task_names=plan.tasks,
        )
        for depth, name in enumerate(chosen)
    ]
    for site in sites if "rank" in options else ():
        _check_rank(site, shape_of(places[site.name]))
    return sites


def unreachable_parameters(model: nn.Module, layers: Mapping[str, nn.Module]) -> list[str]:
    """Names of weights no adapter of this kind can reach, such as experts fused into one tensor.

    These are parameters of two or more dimensions that belong to no linear and no embedding. An adapter of
    the model as a whole may reach all.
    """
    if isinstance(layers, WholeModel):
        return []
    within_reach = [m for m in model.modules() if is_linear(m) or isinstance(m, nn.Embedding)]
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
    for site, layer in modules_of(layers).items():
        for name, parameter in layer.named_parameters():
            if parameter.requires_grad and id(parameter) not in seen:
                seen.add(id(parameter))
                found[f"{site}.{name}" if site else name] = parameter
    return found


def count_trainable(layers: Mapping[str, nn.Module], plan: Plan) -> int:
    """How many numbers learn.

    Raises:
        PlanError: None does.
    """
    count = sum(parameter.numel() for parameter in trainable_parameters(layers).values())
    if not count:
        adapter = plan.parts["adapter"]
        raise PlanError(
            f"with these options adapter {adapter.name!r} has nothing that learns on this base",
            fix=f"change its options: edgelora plugins show {adapter.plugin}:{adapter.name}",
        )
    return count


def adapter_tensors(layers: Mapping[str, nn.Module]) -> dict[str, torch.Tensor]:
    """All state of the adapter, frozen tensors included, as ``"<site>.<name>"``; never the base's."""
    if isinstance(layers, WholeModel):
        return layers.tensors()
    tensors: dict[str, torch.Tensor] = {}
    for site, layer in layers.items():
        of_base = {
            f"{name}." for name, module in layer.named_modules() if name and isinstance(module, FROZEN)
        }
        for name, tensor in layer.state_dict().items():
            if not name.startswith(tuple(of_base)):
                tensors[f"{site}.{name}"] = tensor
    return tensors


def plain_linears(model: nn.Module) -> dict[str, nn.Module]:
    """All linears by name, in the form the model keeps them in, each once, but the output head."""
    head: Any = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    return {
        name: module for name, module in model.named_modules() if is_linear(module) and module is not head
    }


def matching(linears: Iterable[str], patterns: Iterable[str], field: str) -> list[str]:
    """The names that a pattern names in full or as a suffix, in their order.

    Raises:
        PlanError: A pattern names none; ``field`` is where the recipe has it.
    """
    names = list(linears)
    by_ending: dict[str, list[str]] = {}
    for name in names:
        for ending in endings(name):
            by_ending.setdefault(ending, []).append(name)
    chosen: set[str] = set()
    for pattern in patterns:
        found = by_ending.get(pattern)
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
    return next((pattern[ending] for ending in endings(name) if ending in pattern), default)


def _check_rank(site: Site, shape: tuple[int, int]) -> None:
    smallest = min(shape)
    if not 1 <= site.rank <= smallest:
        raise PlanError(
            f"rank {site.rank} does not fit {site.name}, whose weight is {shape}",
            fix=f"choose a rank from 1 to {smallest}, or leave {site.name} out of target_modules",
        )


def replace_module(model: nn.Module, old: nn.Module, new: nn.Module) -> None:
    """Put ``new`` at every place where ``old`` stands; a linear may stand at several."""
    places = [name for name, module in model.named_modules(remove_duplicate=False) if module is old]
    for place in places:
        model.set_submodule(place, new)


def _device(linear: nn.Module) -> torch.device:
    if isinstance(linear, FrozenLinear) and linear.moves_to is not None:
        return linear.moves_to
    return next(iter([*linear.parameters(), *linear.buffers()])).device
