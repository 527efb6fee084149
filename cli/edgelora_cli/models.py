"""A model ready to be asked or measured: a base alone, or with an adapter applied."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from edgelora.engine.apply import Adapted
    from edgelora.plan import Plan
    from edgelora.registry import Registry


@dataclass(frozen=True, slots=True)
class OpenModel:
    """What generate, evaluate and quickstart work with."""

    model: Any
    tokenizer: Any
    base: str
    layers: Mapping[str, Any] = field(default_factory=dict)
    tasks: tuple[str, ...] = ()
    """Those its layers tell apart, by number; empty where they do not."""
    plan: Plan | None = None
    """That of an adapter: what it was trained over."""


def use_threads(threads: int | Literal["auto"] | None) -> None:
    """Fix torch's threads; ``auto`` and None take the cores that are free."""
    import torch

    from edgelora.engine.conditions import free_cores

    torch.set_num_threads(threads if isinstance(threads, int) else free_cores())


def bare_plan(base: str, registry: Registry) -> Plan:
    """A plan that only names a base, unquantized."""
    from edgelora.plan import make_plan
    from edgelora.recipe import make_recipe

    return make_plan(make_recipe({"base": base}), registry)


def open_base(plan: Plan) -> OpenModel:
    """The base of a plan, quantized as the plan says, without an adapter."""
    from edgelora.engine.base import load_base, load_tokenizer, locate_base

    name = plan.recipe.base
    return OpenModel(load_base(plan), load_tokenizer(locate_base(name, plan.recipe.revision)), name)


def open_adapted(
    adapter: str,
    registry: Registry,
    *,
    base: str | None = None,
    revision: str | None = None,
    dtype: str = "auto",
    rank: int | None = None,
) -> OpenModel:
    """An adapter on its base.

    Args:
        adapter: A folder or a reference.
        registry: The installed plugins.
        base: A folder, a cached Hub id or ``micro``; None takes the one the adapter names.
        revision: Of ``base``, where that is a Hub id.
        dtype: ``auto``, ``float32`` or ``bfloat16``.
        rank: Of an adapter that works at several: with how many components to compute.

    Raises:
        PlanError: The adapter does not work at ``rank``.
    """
    from edgelora.engine.apply import load_adapted

    found = load_adapted(adapter, registry, base=base, revision=revision, dtype=dtype)
    if rank is not None:
        found.set_rank(rank)
    return _opened(found)


def open_for_task(adapter: str, *, base: str | None, task: str | None, rank: int | None = None) -> OpenModel:
    """An adapter on its base, ready to answer prompts of ``task``; None where it tells no tasks apart.

    Raises:
        PlanError: The adapter has no such task, or several and none is named, or does not work at ``rank``.
    """
    from edgelora.engine.apply import load_adapted

    found = load_adapted(adapter, base=base)
    found.route(task)
    if rank is not None:
        found.set_rank(rank)
    return _opened(found)


def _opened(found: Adapted) -> OpenModel:
    return OpenModel(
        found.model, found.tokenizer, found.plan.recipe.base, found.layers, found.tasks, found.plan
    )
