"""What a plugin hands to the SDK: light descriptors, no work.

A hook returns ``Part`` objects. A part names an object (``"module:attribute"``) that is imported only when a
plan is built, and its options by another that is imported when a plan is made, so listing plugins imports
neither torch nor pydantic.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, get_args

if TYPE_CHECKING:
    from edgelora.options import Options

Kind = Literal["quantizer", "adapter", "rank_scheduler", "loss_combiner", "evaluator"]
KINDS: tuple[Kind, ...] = get_args(Kind)

NO_OPTIONS = "edgelora.options:Options"
"""The options of a part that has none."""


@dataclass(frozen=True, slots=True)
class Part:
    """One implementation of one hook, found by name.

    Attributes:
        name: How recipes call it, in lower case with hyphens: ``"nf4"``.
        target: ``"module:attribute"``; called once with the validated options, it returns an object that
            meets the protocol of the part's hook (`edgelora.protocols`).
        options: The model that validates the options, a subclass of `edgelora.Options`, as
            ``"module:Class"``; or the class itself, which makes listing the plugin slower.
        summary: One line for ``edgelora plugins list``.
        paper: Where it was published: ``"arXiv:2106.09685"``; empty when it was not.
        abilities: Names of the capability protocols its objects will have (``"LowRank"``), so that a plan can
            refuse a combination before torch is imported. The conformance kit compares them with the objects.
        refuses: What it cannot work with, as ``"kind:name" -> reason`` for a part, and as
            ``"AdaptsModel" -> reason`` for every part of that ability.
        qualified_only: Found as ``"plugin:name"`` alone: of many parts that a plugin offers under names which
            are not its own choice, so that none makes another plugin's bare name ambiguous.
        unusable: Why every plan refuses it, in one line; empty where it does not. A plugin that offers all of
            a library so names what it leaves out.
        starts_elsewhere: Of an adapter: why a model does not compute what its base does when training starts;
            empty where it does.
        needs: Abilities the adapter of the plan must have, as ``"Prunable" -> reason``.
        keeps_weights: Of a quantizer: its layers are the base's linears as they are, so that they lie in the
            base's own files; its ``quantization_config()`` is empty.
        accuracies: Of an evaluator: its metrics that are a task's share of right answers, 0 to 1, by the end
            of the measurement's name: ``("exact_match",)`` for ``"<task>.exact_match"``.
        kit: Settings with which the conformance kit checks it, where its tiny model and few steps ask for
            others than the kit's: ``{"options": {"every": 1}, "steps": 20}``. Reports show them.
    """

    name: str
    target: str
    options: type[Options] | str = NO_OPTIONS
    summary: str = ""
    paper: str = ""
    abilities: tuple[str, ...] = ()
    refuses: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    needs: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    qualified_only: bool = False
    unusable: str = ""
    starts_elsewhere: str = ""
    keeps_weights: bool = False
    accuracies: tuple[str, ...] = ()
    kit: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))


@dataclass(frozen=True, slots=True)
class Derivative:
    """A published method, spelled as named parts with their default options.

    Attributes:
        name: How recipes call it: ``"qlora"``.
        summary: One line for ``edgelora plugins list``.
        paper: Where it was published.
        parts: For each kind it sets: a part's name, or ``{"name": ..., option: value}``. A part of another
            plugin is named ``"plugin:part"``, so that no third plugin makes it ambiguous. Kinds left out take
            the baseline (``none``, ``constant``, ``sum``, ``[loss]``); an evaluator entry may be a list.
        qualified_only: Found as ``"plugin:name"`` alone; see `Part`.
    """

    name: str
    summary: str = ""
    paper: str = ""
    parts: Mapping[Kind, Any] = field(default_factory=dict)
    qualified_only: bool = False
