"""What a prepared base leaves to choose: how its products are computed, not how it is quantized."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from edgelora.bases import is_folder
from edgelora.capabilities import WantsSource
from edgelora.errors import CombinationError, WrongBase
from edgelora.known_bases import recall_source
from edgelora.manifest import Component
from edgelora.plan.part import PlannedPart, plan_part
from edgelora.plan.stated import part_from_document
from edgelora.prepared import PreparedBase
from edgelora.recipe import PartChoice, Recipe
from edgelora.registry import Registry

if TYPE_CHECKING:
    from edgelora.plan import Plan

OF_THE_PRODUCT = frozenset({"compute_dtype"})
"""Options of quantizers that change nothing of what is stored, and may differ."""


def over_prepared(recipe: Recipe, record: PreparedBase, registry: Registry) -> Recipe:
    """The recipe with the quantizer and the skipped modules of its prepared base.

    Raises:
        CombinationError: It names others.
        PluginMissing: The quantizer is not installed.
        OptionsError: The quantizer refuses its options.
    """
    kept = part_from_document("quantizer", record.quantizer.model_dump(), registry)
    given = recipe.quantizer or PartChoice()
    chosen = kept
    if given.name is not None:
        found = registry.part("quantizer", given.name)
        if (found.plugin, found.part.name) != (kept.plugin, kept.name):
            chosen = plan_part(found, given.options)
    if chosen is kept:
        found = registry.part("quantizer", f"{kept.plugin}:{kept.name}")
        chosen = plan_part(found, {**record.quantizer.options, **given.options})
    if stored_form(chosen) != stored_form(kept):
        raise CombinationError(
            f"the base {recipe.base} is prepared in {in_words(kept)}, and the recipe asks for "
            f"{in_words(chosen)}",
            fix="leave 'quantizer' out of the recipe, or use the unquantized model as the base",
        )
    if recipe.skip_modules and set(recipe.skip_modules) != set(record.skip_modules):
        unquantized = ", ".join(record.skip_modules) or "nothing"
        raise CombinationError(
            f"the base {recipe.base} is prepared with {unquantized} left unquantized, and the recipe's "
            f"skip_modules has {', '.join(recipe.skip_modules)}",
            fix="leave 'skip_modules' out of the recipe, or use the unquantized model as the base",
        )
    choice = PartChoice(name=f"{kept.plugin}:{kept.name}", **chosen.options.model_dump(mode="json"))
    return recipe.model_copy(update={"quantizer": choice, "skip_modules": record.skip_modules})


def check_is_in_files(recipe: Recipe, record: PreparedBase | None, quantizer: PlannedPart) -> None:
    """Refuse to stream a base that a quantizer changes and that is not prepared.

    A base that is not in a folder here, such as a Hub id in a cache, is left to when it is loaded.

    Raises:
        CombinationError: As said.
    """
    if not recipe.train.streamed or record is not None or quantizer.part.keeps_weights:
        return
    if is_folder(recipe.base):
        raise not_in_files(recipe.base, quantizer.name)


def not_in_files(base: str, quantizer: str) -> CombinationError:
    """That a base cannot be streamed, because its files do not hold what a quantizer makes of it."""
    return CombinationError(
        f"train.streamed reads each layer from the base's files again and again, and those of {base} hold "
        f"none that {quantizer} has quantized",
        fix=f"prepare it first: edgelora bases prepare {base} --quantizer {quantizer}",
    )


def check_source_is_known(recipe: Recipe, record: PreparedBase, adapter: PlannedPart) -> None:
    """Refuse an adapter that starts from unquantized weights where nobody knows where they are.

    Raises:
        CombinationError: As said.
    """
    if WantsSource.__name__ in adapter.part.abilities and recall_source(record.source) is None:
        raise source_is_missing(recipe.base, record, f"adapter {adapter.name!r}")


def source_is_missing(base: str, record: PreparedBase, wanted_by: str) -> CombinationError:
    """That ``wanted_by`` needs the unquantized weights of a prepared base."""
    repo, name = record.source.repo, record.quantizer.name
    return CombinationError(
        f"{wanted_by} starts from unquantized weights, which {base} does not hold; where those of {repo} are "
        "is not known here",
        fix=f"use {repo} itself as the base with quantizer: {name}; once it was trained on it is known",
    )


def check_adapter_fits(component: Component, record: PreparedBase, place: str, registry: Registry) -> None:
    """Refuse a prepared base that has other weights than those an adapter was trained over.

    Args:
        component: Of the adapter's manifest.
        record: Of the base.
        place: How errors name the base.
        registry: The installed plugins.

    Raises:
        WrongBase: The adapter was trained over another quantizer, other options or other modules.
        PluginMissing: The adapter's quantizer is not installed, or the base's.
    """
    kept = part_from_document("quantizer", record.quantizer.model_dump(), registry)
    stated = component.parts.get("quantizer")
    trained = part_from_document("quantizer", stated.model_dump(), registry) if stated else None
    skipped = set(component.config.get("skipModules", ()))
    if trained and stored_form(trained) == stored_form(kept) and skipped == set(record.skip_modules):
        return
    over = in_words(trained) if trained else "no quantizer"
    raise WrongBase(
        f"the adapter was trained over {record.source.repo} in {over}{_left_out(skipped)}; {place} holds it "
        f"in {in_words(kept)}{_left_out(record.skip_modules)}",
        fix=f"pass the unquantized {record.source.repo} as the base: --base FOLDER",
    )


def _left_out(modules: Iterable[str]) -> str:
    names = ", ".join(sorted(modules))
    return f" without {names}" if names else ""


def stored_form(part: PlannedPart) -> tuple[str, str, Mapping[str, Any]]:
    """What decides the codes a quantizer makes: equal for two parts exactly if their layers are."""
    options = part.options.model_dump(mode="json")
    return part.plugin, part.name, {key: options[key] for key in options.keys() - OF_THE_PRODUCT}


def in_words(part: PlannedPart) -> str:
    """A quantizer with the options that decide its codes: ``nf4 (block_size 64)``."""
    options = stored_form(part)[2]
    told = ", ".join(f"{name} {json.dumps(options[name])}" for name in sorted(options))
    return f"{part.name} ({told})" if told else part.name


def base_form(plan: Plan) -> Any:
    """What decides the weights a plan's base has: equal for two plans over one model exactly if those are."""
    quantizer = plan.parts["quantizer"]
    # Where nothing is quantized, nothing is left out of it.
    skipped = () if quantizer.part.keeps_weights else plan.recipe.skip_modules
    return stored_form(quantizer), set(skipped)


def base_in_words(plan: Plan) -> str:
    """The quantizer of a plan and what it leaves out: ``nf4 (block_size 64) without down_proj``."""
    return in_words(plan.parts["quantizer"]) + _left_out(plan.recipe.skip_modules)
