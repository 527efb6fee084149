"""Adapters that came before: found, trusted and fit to go on from, before a base is loaded."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

from edgelora.bases import base_folder
from edgelora.capabilities import HasPast, LowRank, TaskAware
from edgelora.errors import (
    BaseNotFound,
    CombinationError,
    FeatureRequired,
    ModelError,
    PlanError,
    TensorsMismatch,
    WrongBase,
)
from edgelora.manifest import Component, Manifest
from edgelora.manifest.base_identity import describe_config, remembered_tensors_digest
from edgelora.manifest.base_match import check_base
from edgelora.manifest.lora_shapes import is_plain_lora
from edgelora.manifest.requirements import only_component
from edgelora.parts import Kind
from edgelora.plan.able import adapter_that_is, have_factors, is_folded
from edgelora.plan.part import PlannedPart
from edgelora.plan.prepared import in_words, stored_form
from edgelora.plan.stated import part_from_document
from edgelora.prepared import PreparedBase
from edgelora.recipe import Recipe
from edgelora.registry import Registry


@dataclass(frozen=True, slots=True)
class PastAdapter:
    """An adapter to go on from.

    Attributes:
        reference: As the recipe names it.
        folder: Where it is.
        digest: ``sha256:`` of its manifest.
        manifest: What was trusted.
        part: The adapter part that rebuilds its layers; None for plain LoRA, which needs none.
    """

    reference: str
    folder: Path
    digest: str
    manifest: Manifest
    part: PlannedPart | None

    @property
    def component(self) -> Component:
        """Its only one."""
        return self.manifest.components[0]

    @property
    def weights(self) -> tuple[str, ...]:
        """Digests of the weights whose changes it makes, oldest first, its own last."""
        lines = sorted(
            f"{file.sha256} {file.path}\n" for file in self.manifest.files if file.role == "weights"
        )
        own = f"sha256:{hashlib.sha256(''.join(lines).encode()).hexdigest()}"
        return (*self.component.config.get("pastWeights", ()), own)


def find_past(
    recipe: Recipe, parts: Mapping[Kind, PlannedPart], record: PreparedBase | None, registry: Registry
) -> tuple[PastAdapter, ...]:
    """The adapters a recipe goes on from, oldest first, without those that a later one has in it.

    Args:
        recipe: Names them, and the base.
        parts: Of the plan.
        record: Of a prepared base.
        registry: The installed plugins.

    Raises:
        CombinationError: The plan's adapter goes on from none, or the change of one is no low-rank product.
        TensorsMismatch: One does not say which linears it adapts.
        PlanError: Two of them have a third in common.
        WrongBase: One was trained on another base, as far as can be told without reading weights, or over
            another quantizer.
        PluginMissing: The part of one is not installed.
        EdgeloraError: What `edgelora.transfer.find_adapter` raises.
    """
    if not recipe.past:
        return ()
    adapter = parts["adapter"]
    if HasPast.__name__ not in adapter.part.abilities:
        raise CombinationError(
            f"adapter {adapter.name!r} does not go on from earlier adapters, and 'past' names "
            f"{recipe.past[0]!r}",
            fix=f"choose {adapter_that_is(HasPast.__name__, registry)}, or leave 'past' out",
        )
    found = _each_once([_find(reference, registry) for reference in recipe.past])
    for past in found:
        _check_base(past, recipe, record)
        _check_quantizer(past, recipe, parts["quantizer"], registry)
    for first, second in combinations(found, 2):
        if first.manifest.base.tensors_digest != second.manifest.base.tensors_digest:
            raise WrongBase(
                f"{first.reference} and {second.reference} of 'past' were trained on different bases",
                fix="go on from adapters of one base",
            )
    return found


def _find(reference: str, registry: Registry) -> PastAdapter:
    # Imported where there is a past only: it brings stores and signatures with it.
    from edgelora.transfer import find_adapter

    found = find_adapter(reference)
    try:
        component = only_component(found.manifest)
    except FeatureRequired as error:
        raise FeatureRequired(
            f"{reference} of 'past': {error.problem}", fix=f"leave it out of 'past', or {error.fix}"
        ) from error
    part = None
    if not is_plain_lora(component):
        document = component.parts["adapter"].model_dump()
        part = part_from_document("adapter", document, registry)
        _check_is_product(reference, part, component, registry)
    if "targetModules" not in component.config:
        raise TensorsMismatch(
            f"the manifest of {reference} of 'past' does not say which linears it adapts",
            fix="leave it out of 'past', or ask its publisher to pack it again",
        )
    return PastAdapter(reference, found.folder, found.digest, found.manifest, part)


def _check_is_product(reference: str, part: PlannedPart, component: Component, registry: Registry) -> None:
    abilities, tasks = part.part.abilities, component.config.get("taskNames", ())
    merge = f"edgelora merge --adapter {reference} --out DIR"
    if LowRank.__name__ not in abilities:
        reason = f"is of {part.name!r}, whose change is no low-rank product: it has no factors to go on from"
    elif TaskAware.__name__ in abilities and len(tasks) > 1:
        reason = f"makes another change for each of {', '.join(tasks)}"
        merge += f" --task {' | '.join(tasks)}"
    else:
        return
    raise CombinationError(
        f"{reference} of 'past' {reason}",
        fix=f"merge it, and take the merged model as the base: {merge}"
        if is_folded(abilities)
        else f"leave it out of 'past', or {have_factors(reference, component, registry)}",
    )


def _each_once(found: list[PastAdapter]) -> tuple[PastAdapter, ...]:
    """Those that no other one has in it; of equal ones the first."""
    once: dict[str, PastAdapter] = {}
    for past in found:
        once.setdefault(past.weights[-1], past)
    held = {digest for past in once.values() for digest in past.weights[:-1]}
    kept = tuple(past for digest, past in once.items() if digest not in held)
    for first, second in combinations(kept, 2):
        if set(first.weights) & set(second.weights):
            raise PlanError(
                f"{first.reference} and {second.reference} of 'past' both went on from a third adapter, "
                "whose change would count twice",
                fix="name one of them",
            )
    return kept


def _check_base(past: PastAdapter, recipe: Recipe, record: PreparedBase | None) -> None:
    """Compare what can be told without reading the weights of the base, and these where they are known."""
    wanted = past.manifest.base
    if record is not None:
        with told_of(past):
            check_base(wanted, record.source, recipe.base)
        return
    try:
        folder = base_folder(recipe.base)
    except BaseNotFound:  # a Hub id in a cache, which only transformers finds
        return
    config_digest, semantic = describe_config(folder)
    told = {"config_digest": config_digest, "config_semantic_digest": semantic}
    with suppress(ModelError):  # a configuration alone can be estimated
        if digest := remembered_tensors_digest(folder):
            told["tensors_digest"] = digest
    found = wanted.model_copy(update=told)
    with told_of(past):
        check_base(wanted, found, recipe.base)


def _check_quantizer(past: PastAdapter, recipe: Recipe, quantizer: PlannedPart, registry: Registry) -> None:
    """Refuse another quantizer: base and past would not compute together what the past adapter computed."""
    stated = past.component.parts.get("quantizer")
    if stated is None:
        return
    trained = part_from_document("quantizer", stated.model_dump(), registry)
    skipped = set(past.component.config.get("skipModules", ()))
    same_modules = quantizer.part.keeps_weights or skipped == set(recipe.skip_modules)
    if stored_form(trained) != stored_form(quantizer) or not same_modules:
        raise WrongBase(
            f"{past.reference} of 'past' was trained over a base in {in_words(trained)}, and the recipe's "
            f"quantizer is {in_words(quantizer)}" + ("" if same_modules else " with other skip_modules"),
            fix="write the quantizer and skip_modules it was trained over into the recipe",
        )


@contextmanager
def told_of(past: PastAdapter) -> Iterator[None]:
    """Errors about a base name the adapter that was not trained on it."""
    try:
        yield
    except WrongBase as error:
        raise WrongBase(
            f"{past.reference} of 'past': {error.problem}",
            fix=f"take {past.manifest.base.repo} as the base, or leave {past.reference} out of 'past'",
        ) from error
