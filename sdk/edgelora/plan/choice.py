"""Which part a plan takes: the recipe's choice over the derivative's over the baseline."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from edgelora.errors import AmbiguousPart, PartNotFound, PlanError
from edgelora.parts import Kind
from edgelora.plan.part import PlannedPart, plan_part
from edgelora.recipe import PartChoice, Recipe
from edgelora.registry import Registry
from edgelora.registry.status import FoundDerivative, FoundPart

_BASELINE: Mapping[Kind, str] = MappingProxyType(
    {"quantizer": "none", "rank_scheduler": "constant", "loss_combiner": "sum", "evaluator": "loss"}
)
_BASELINE_PLUGIN = "baseline"


def choose_part(
    kind: Kind, given: PartChoice | None, origin: FoundDerivative, registry: Registry
) -> PlannedPart:
    """The part of a kind a plan has exactly one of.

    A choice without a name keeps the derivative's part; one that names the derivative's part keeps its
    options; in both cases the recipe's options come on top. Another name starts from that part's defaults.
    """
    default, owner = _default(kind, origin)
    if given is not None and given.name is not None:
        found = registry.part(kind, given.name)
        kept = {}
        if default is not None and _is_default(found, kind, default, owner, registry):
            kept = _options_of(default)
        return plan_part(found, {**kept, **given.options})
    if default is None:
        raise PlanError(
            f"derivative {origin.derivative.name!r} names no {kind}",
            fix=f"add a line to the recipe: '{kind}: {{name: lora}}'",
        )
    overrides = given.options if given is not None else {}
    found = _find_default(kind, default, owner, registry)
    return plan_part(found, {**_options_of(default), **overrides})


def choose_evaluators(recipe: Recipe, origin: FoundDerivative, registry: Registry) -> tuple[PlannedPart, ...]:
    """The recipe's evaluators, else the derivative's, else the baseline's, by the rules of `choose_part`."""
    default, owner = _default("evaluator", origin)
    defaults = default if isinstance(default, list | tuple) else (default,)
    if recipe.evaluators is None:
        chosen = [
            plan_part(_find_default("evaluator", each, owner, registry), _options_of(each))
            for each in defaults
        ]
    else:
        chosen = []
        for given in recipe.evaluators:
            if given.name is None:
                raise PlanError(
                    f"an evaluator has options {given.options} but no name",
                    fix="write evaluators: [{name: loss, ...}]",
                )
            found = registry.part("evaluator", given.name)
            kept = next(
                (_options_of(d) for d in defaults if _is_default(found, "evaluator", d, owner, registry)), {}
            )
            chosen.append(plan_part(found, {**kept, **given.options}))
    seen: set[str] = set()
    for evaluator in chosen:
        if evaluator.name in seen:
            raise PlanError(
                f"evaluators lists {evaluator.name!r} twice, and their measurements would share names",
                fix="remove one of them",
            )
        seen.add(evaluator.name)
    return tuple(chosen)


def _default(kind: Kind, origin: FoundDerivative) -> tuple[Any, str]:
    """What a recipe that says nothing gets, and the plugin whose names come first when it is looked up."""
    if kind in origin.derivative.parts:
        return origin.derivative.parts[kind], origin.plugin
    return _BASELINE.get(kind), _BASELINE_PLUGIN


def _name_of(default: Any) -> str:
    return str(default["name"] if isinstance(default, Mapping) else default)


def _options_of(default: Any) -> dict[str, Any]:
    if not isinstance(default, Mapping):
        return {}
    return {key: value for key, value in default.items() if key != "name"}


def _find_default(kind: Kind, default: Any, owner: str, registry: Registry) -> FoundPart:
    # The owner's own part, then the baseline's: installing another plugin must not make these ambiguous.
    offered = {found.qualified_name: found for found in registry.parts(kind)}
    name = _name_of(default)
    for plugin in (owner, _BASELINE_PLUGIN):
        if f"{plugin}:{name}" in offered:
            return offered[f"{plugin}:{name}"]
    return registry.part(kind, name)


def _is_default(found: FoundPart, kind: Kind, default: Any, owner: str, registry: Registry) -> bool:
    """Whether a part the user named is the one the derivative names, so that its options are kept."""
    name = _name_of(default)
    if ":" in name:
        return found.qualified_name == name
    if found.part.name != name:
        return False
    try:
        return found == _find_default(kind, default, owner, registry)
    except (AmbiguousPart, PartNotFound):
        # The user's qualified name settles what the derivative left open.
        return True
