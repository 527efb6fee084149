"""The plan: a recipe resolved against the installed plugins. Torch is imported only when a part is built."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from edgelora.bases import prepared_at
from edgelora.errors import CombinationError, PlanError
from edgelora.parts import Kind
from edgelora.plan.able import adapter_that_is
from edgelora.plan.choice import choose_evaluators, choose_part
from edgelora.plan.on_base import check_embeddings, names_not_found
from edgelora.plan.part import PlannedPart
from edgelora.plan.past import PastAdapter, find_past
from edgelora.plan.prepared import check_is_in_files, check_source_is_known, over_prepared
from edgelora.plan.stated import installed, part_from_document
from edgelora.plan.text import describe_plan
from edgelora.recipe import PartChoice, Recipe
from edgelora.registry import Registry
from edgelora.registry.status import FoundDerivative

SINGLE_KINDS: tuple[Kind, ...] = ("quantizer", "adapter", "rank_scheduler", "loss_combiner")
"""The kinds a plan has exactly one part of; evaluators may be many."""

UNSTREAMED = {
    "CrossSite": "its layers read what other blocks were given, and only two blocks are in memory",
    "AdaptsModel": "it changes the model as a whole, which is never whole in memory",
}
"""Capabilities of adapters that need more of the base than streaming keeps, and why."""


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything that will be done, with what, and from which plugin.

    Attributes:
        recipe: What was asked for.
        derivative: Name of the derivative.
        origin: ``plugin``, ``distribution`` and ``version`` the derivative comes from.
        parts: One part of each of ``SINGLE_KINDS``.
        evaluators: In the order they run.
        tasks: Names of the tasks, in the order of ``task_ids``; ``("main",)`` where there are no data.
        past: The adapters to go on from, oldest first.
    """

    recipe: Recipe
    derivative: str
    origin: FoundDerivative
    parts: Mapping[Kind, PlannedPart]
    evaluators: tuple[PlannedPart, ...]
    tasks: tuple[str, ...]
    past: tuple[PastAdapter, ...] = ()

    def build(self, kind: Kind) -> Any:
        """Build the part of a kind; see `edgelora.plan.part.PlannedPart.build`."""
        return self.parts[kind].build()

    @property
    def notes(self) -> tuple[str, ...]:
        """What parts have to say of the plan (`edgelora.Options.notes`), and names the base seems to lack."""
        parts = (*self.parts.values(), *self.evaluators)
        said = [note for part in parts for note in part.options.notes(self)]
        return (*said, *names_not_found(self))

    def describe(self) -> str:
        """What will be done with what, for people, in several lines."""
        return describe_plan(self)

    def as_document(self) -> dict[str, Any]:
        """JSON values from which `plan_from_document` makes an equal plan."""
        document: dict[str, Any] = {
            "format": 1,
            "derivative": {
                "name": self.derivative,
                "plugin": self.origin.plugin,
                "distribution": self.origin.distribution,
                "version": self.origin.version,
            },
            "parts": {kind: part.as_document() for kind, part in self.parts.items()},
            "evaluators": [evaluator.as_document() for evaluator in self.evaluators],
            "tasks": list(self.tasks),
            "recipe": self.recipe.model_dump(mode="json"),
        }
        return document | ({"past": [past.digest for past in self.past]} if self.past else {})


def make_plan(recipe: Recipe, registry: Registry) -> Plan:
    """Resolve all names of a recipe, validate all options, and refuse parts that cannot work together.

    Over a prepared base, the quantizer and the modules left unquantized are those of the base.

    Raises:
        PartNotFound: A name is offered by no plugin that works.
        AmbiguousPart: A bare name is offered by several.
        OptionsError: A part refuses its options.
        CombinationError: A chosen part refuses another, or the base is prepared with another quantizer, or
            is to be streamed and must be prepared first.
        PlanError: The recipe leaves something open, lists an evaluator twice, or a part's options do not suit
            the rest of the plan; or it adapts an embedding by an adapter of linears.
        PluginBug: A part breaks a rule of its hook.
        WrongBase: An adapter to go on from was trained on another base.
        EdgeloraError: Such an adapter is not there, or not trusted; see `edgelora.plan.past.find_past`.
    """
    origin = registry.derivative(recipe.derivative)
    record = prepared_at(recipe.base)
    if record is not None:
        recipe = over_prepared(recipe, record, registry)
    given: dict[Kind, PartChoice | None] = {
        "quantizer": recipe.quantizer,
        "adapter": recipe.adapter,
        "rank_scheduler": recipe.rank_scheduler,
        "loss_combiner": recipe.loss_combiner,
    }
    parts = {kind: choose_part(kind, given[kind], origin, registry) for kind in SINGLE_KINDS}
    _check_streaming(recipe, parts["adapter"])
    _check_usable(parts.values())
    check_is_in_files(recipe, record, parts["quantizer"])
    if record is not None:
        check_source_is_known(recipe, record, parts["adapter"])
    evaluators = choose_evaluators(recipe, origin, registry)
    _check_combination((*parts.values(), *evaluators))
    _check_needs(parts["adapter"], (*parts.values(), *evaluators), registry)
    past = find_past(recipe, parts, record, registry)
    plan = Plan(
        recipe=recipe,
        derivative=origin.derivative.name,
        origin=origin,
        parts=MappingProxyType(parts),
        evaluators=evaluators,
        tasks=tuple(dict.fromkeys(source.task for source in recipe.data)) or ("main",),
        past=past,
    )
    if recipe.data:
        check_embeddings(recipe.base, parts["adapter"], registry)
        for part in (*parts.values(), *evaluators):
            part.options.check(plan)
    return plan


def plan_from_document(document: Mapping[str, Any], registry: Registry) -> Plan:
    """Rebuild a plan from `Plan.as_document`, with the plugins that are installed now.

    Raises:
        PlanError: The document is not one of a plan.
        PluginMissing: A part's plugin is not installed or does not load.
        OptionsError: The installed version of a part refuses the options.
    """
    try:
        recipe = Recipe.model_validate(document["recipe"])
        stated = document["derivative"]
        origin = installed("derivative", stated, registry.derivative)
        parts = {kind: part_from_document(kind, document["parts"][kind], registry) for kind in SINGLE_KINDS}
        evaluators = tuple(part_from_document("evaluator", each, registry) for each in document["evaluators"])
        tasks = tuple(document["tasks"])
    except (KeyError, TypeError, ValueError) as error:
        raise PlanError(
            f"the document is not one of a plan: {type(error).__name__}: {error}",
            fix="write it with Plan.as_document, or make the plan from its recipe again",
        ) from error
    _check_combination((*parts.values(), *evaluators))
    _check_needs(parts["adapter"], (*parts.values(), *evaluators), registry)
    past = find_past(recipe, parts, prepared_at(recipe.base), registry)
    if [each.digest for each in past] != document.get("past", []):
        raise PlanError(
            f"the adapters that 'past' names ({', '.join(recipe.past)}) are not those the plan was made with",
            fix="restore them, or make the plan from its recipe again",
        )
    return Plan(recipe, origin.derivative.name, origin, MappingProxyType(parts), evaluators, tasks, past)


def _check_streaming(recipe: Recipe, adapter: PlannedPart) -> None:
    for ability, reason in UNSTREAMED.items():
        if recipe.train.streamed and ability in adapter.part.abilities:
            raise CombinationError(
                f"adapter {adapter.name!r} cannot work with train.streamed: {reason} ({ability})",
                fix="set train.streamed to false, or choose another adapter; see: edgelora plugins list",
            )


def _check_usable(parts: Iterable[PlannedPart]) -> None:
    for part in parts:
        if part.part.unusable:
            raise PlanError(
                f"{_kind(part)} {part.plugin}:{part.name} cannot be used: {part.part.unusable}",
                fix=f"choose another {_kind(part)}; see: edgelora plugins list",
            )


def _check_combination(parts: Iterable[PlannedPart]) -> None:
    for part, other in itertools.permutations(parts, 2):
        names = (f"{other.kind}:{other.name}", f"{other.kind}:{other.plugin}:{other.name}")
        for refused, reason in part.part.refuses.items():
            if refused in (*names, *other.part.abilities):
                is_able = "" if refused in names else f", which is {refused}"
                raise CombinationError(
                    f"{_words(part)} cannot work with {_words(other)}{is_able}: {reason}",
                    fix=f"choose another {_kind(other)}, or another {_kind(part)}; "
                    "see: edgelora plugins list",
                )


def _check_needs(adapter: PlannedPart, parts: Iterable[PlannedPart], registry: Registry) -> None:
    for part in parts:
        for ability, reason in part.part.needs.items():
            if ability not in adapter.part.abilities:
                raise CombinationError(
                    f"{_words(part)} cannot work with {_words(adapter)}, which is not {ability}: {reason}",
                    fix=f"choose {adapter_that_is(ability, registry)}, or another {_kind(part)}",
                )


def _words(part: PlannedPart) -> str:
    return f"{_kind(part)} {part.name!r}"


def _kind(part: PlannedPart) -> str:
    return part.kind.replace("_", " ")
