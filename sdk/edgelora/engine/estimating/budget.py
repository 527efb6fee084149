"""The fastest placement of a base that keeps a run within its memory budget."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

from edgelora.engine.estimating.memory import Memory, Surroundings, predict
from edgelora.engine.estimating.placement import (
    FEWEST_LOSS_ROWS,
    Placement,
    alternatives,
    fewer_loss_rows,
    why_not_streamed,
    with_settings,
)
from edgelora.engine.estimating.step import Rows
from edgelora.errors import EdgeloraError, MemoryBudgetExceeded
from edgelora.parts import Kind
from edgelora.plan import Plan, PlannedPart
from edgelora.sizes import size_text

SEARCH_S = 60
"""After which no more settings are tried; a prediction for 32 wide blocks takes some seconds."""


@dataclass(frozen=True, slots=True)
class Choice:
    """A placement that fits, and why it was chosen, in words."""

    memory: Memory
    reason: str

    @property
    def placement(self) -> Placement:
        """Of the base."""
        return self.memory.placement


def choose_placement(plan: Plan, around: Surroundings, predicted: Sequence[Memory] = ()) -> Choice:
    """The first of resident, checkpointed and streamed whose predicted peak is within the plan's budget.

    Each is tried with the recipe's ``loss_rows`` and then with fewer.

    Args:
        plan: With a memory budget.
        around: What memory depends on besides.
        predicted: What is known already of some placements of this plan.

    Raises:
        MemoryBudgetExceeded: None is; the message names the nearest setting that would be.
        ModelError: The architecture cannot run on shapes alone.
    """
    budget = plan.recipe.memory_budget
    assert budget is not None
    obstacle = why_not_streamed(plan, prepared=around.prepared)
    refused: list[str] = []
    least: Memory | None = None
    known = {memory.placement: memory for memory in predicted}
    for placement in alternatives(plan):
        if placement.streamed and obstacle is not None:
            continue
        memory = known.get(placement) or predict(plan, around, placement)
        tried = _fitting(plan, around, memory, budget)
        if tried.peak <= budget:
            return Choice(tried, _reason(tried, budget, refused))
        refused.append(f"{placement.name} would take {size_text(tried.peak)}")
        least = tried if least is None or tried.peak < least.peak else least
    assert least is not None
    raise MemoryBudgetExceeded(
        f"memory_budget is {size_text(budget)}, and the least this run takes is {size_text(least.peak)} "
        f"({least.placement.name}, {least.placement.loss_rows} loss rows): {_largest(least)}",
        fix=_nearest(plan, around, budget, obstacle, least),
    )


def _fitting(plan: Plan, around: Surroundings, memory: Memory, budget: int) -> Memory:
    """The same placement with the most loss rows that fit; with the fewest where none do."""
    placement = memory.placement
    choices = fewer_loss_rows(placement.loss_rows)
    if memory.peak <= budget or len(choices) == 1:
        return memory
    fewest = predict(plan, around, replace(placement, loss_rows=choices[-1]))
    if fewest.peak > budget:
        return fewest
    for rows in choices[1:-1]:
        memory = predict(plan, around, replace(placement, loss_rows=rows))
        if memory.peak <= budget:
            return memory
    return fewest


def _reason(memory: Memory, budget: int, refused: list[str]) -> str:
    placement = memory.placement
    rows = f", {placement.loss_rows} loss rows" if placement.loss_rows else ""
    chosen = (
        f"{placement.name}{rows}: {size_text(memory.peak)} of memory_budget {size_text(budget)} predicted"
    )
    return f"{chosen}; {', '.join(refused)}" if refused else chosen


def _largest(memory: Memory) -> str:
    """What the memory is for, the largest part first."""
    if memory.loading > memory.stepping:
        return f"that is while the base is loaded; a step takes {size_text(memory.stepping)}"
    shares = {**memory.parts, "runtime": memory.runtime, "allocator": memory.slack}
    ordered = sorted(shares, key=lambda part: -shares[part])[:3]
    return ", ".join(f"{part} {size_text(shares[part])}" for part in ordered)


def _nearest(plan: Plan, around: Surroundings, budget: int, obstacle: str | None, least: Memory) -> str:
    """Few changes to the recipe that would fit, found by trying them on shapes: one, then two, then more."""

    def peak(changes: Sequence[Option]) -> float:
        try:
            return _with(plan, around, changes).peak
        except EdgeloraError:  # some part refuses it
            return math.inf

    if around.on_cpu and budget <= least.runtime:
        return (
            f"raise memory_budget to more than {size_text(least.peak)}: of these, Python and the libraries "
            f"alone take {size_text(least.runtime)}"
        )
    deadline = time.monotonic() + SEARCH_S
    none = "no change of settings fits: raise memory_budget, or take a smaller base"
    unknown = (
        f"raise memory_budget, or take a smaller base; {SEARCH_S} seconds of trying found no change that fits"
    )
    settings = list(_changes(plan, around, obstacle))
    if budget < peak([options[-1] for options in settings]) < math.inf:
        return none
    alone: list[list[tuple[float, Option]]] = []
    for options in settings:
        if time.monotonic() > deadline:
            return unknown
        alone.append([(peak([option]), option) for option in options])
    for size, option in itertools.chain(*alone):
        if size <= budget:
            return _would_take([option], size)
    usable = [[each for each in options if each[0] < math.inf] for options in alone]
    # The settings whose strongest change saves most come first.
    ordered = sorted(filter(None, usable), key=lambda options: options[-1][0])
    most = [[option for _, option in options] for options in ordered]
    groups = [*itertools.combinations(most, 2), *(most[:count] for count in range(3, len(most) + 1))]
    for group in groups:
        if time.monotonic() > deadline:
            return unknown
        if peak([options[-1] for options in group]) <= budget:
            # No further than is needed.
            for tried in itertools.product(*group):
                if (size := peak(tried)) <= budget:
                    return _would_take(tried, size)
    return none


def _would_take(options: Sequence[Option], size: float) -> str:
    words = " and ".join(words for words, _ in options)
    return f"{words}: that is predicted to take {size_text(round(size))}"


def _with(plan: Plan, around: Surroundings, changes: Sequence[Option]) -> Memory:
    """Memory of the lightest placement after some changes."""
    for _, change in changes:
        plan, around = change(plan, around)
    rows = min(FEWEST_LOSS_ROWS, plan.recipe.train.loss_rows)
    lightest = replace(alternatives(plan)[-1], loss_rows=rows)
    if why_not_streamed(plan, prepared=around.prepared) is not None:
        lightest = replace(lightest, streamed=False)
    return predict(plan, around, lightest)


Change = Callable[[Plan, Surroundings], tuple[Plan, Surroundings]]
Option = tuple[str, Change]
"""What to change a setting to, in words, and the change."""


def _changes(plan: Plan, around: Surroundings, obstacle: str | None) -> Iterator[list[Option]]:
    """For each setting what it could be changed to, the mildest first."""
    train = plan.recipe.train
    if obstacle is not None and why_not_streamed(plan, prepared=True) is None:
        name = plan.parts["quantizer"].name
        base = plan.recipe.base
        # A configuration alone can be estimated; what is prepared is the folder with the weights.
        model = "FOLDER" if Path(base).expanduser().is_file() else base
        words = (
            f"prepare the base, which can then be streamed: edgelora bases prepare {model} --quantizer {name}"
        )
        yield [(words, lambda plan, around: (plan, replace(around, prepared=True)))]
    if around.rows.count > 1:
        yield [("set train.batch_size=1", partial(_shorter, name="batch_size", value=1))]
    if train.optimizer == "adamw":
        yield [("set train.optimizer=adamw-8bit", _setting("optimizer", "adamw-8bit"))]
    if train.adapter_dtype == "float32":
        yield [("set train.adapter_dtype=bfloat16", _setting("adapter_dtype", "bfloat16"))]
    rank, length = plan.parts["adapter"].options.model_dump().get("rank", 0), around.rows.length
    ranks = [smaller for smaller in (8, 4) if smaller < rank]
    lengths = [shorter for shorter in (length // 2, length // 4, length // 8) if shorter >= 32]
    if ranks:
        yield [(f"set adapter.rank={each}", partial(_ranked, rank=each)) for each in ranks]
    if lengths:
        yield [
            (f"set train.max_length={each}", partial(_shorter, name="max_length", value=each))
            for each in lengths
        ]


def _setting(name: str, value: Any) -> Change:
    return lambda plan, around: (with_settings(plan, {name: value}), around)


def _ranked(plan: Plan, around: Surroundings, rank: int) -> tuple[Plan, Surroundings]:
    adapter = plan.parts["adapter"]
    options = adapter.options.model_copy(update={"rank": rank})
    parts: dict[Kind, PlannedPart] = {**plan.parts, "adapter": replace(adapter, options=options)}
    return replace(plan, parts=MappingProxyType(parts)), around


def _shorter(plan: Plan, around: Surroundings, name: str, value: int) -> tuple[Plan, Surroundings]:
    rows = around.rows
    fewer = Rows(value, rows.length, padded=False) if name == "batch_size" else replace(rows, length=value)
    return with_settings(plan, {name: value}), replace(around, rows=fewer)
