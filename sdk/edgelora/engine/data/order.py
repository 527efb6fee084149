"""Which rows each optimizer step takes: decided by seed and step alone, so there is no position to save."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise
from random import Random
from typing import Protocol, TypeVar

from edgelora.errors import DataError

STEPS_PER_GROUP = 16
"""Steps whose rows are sorted by length together: enough to save padding, few enough to stay random."""


Item = TypeVar("Item")


class HasTokens(Protocol):
    """Anything with tokens, such as a `Row`."""

    @property
    def input_ids(self) -> Sequence[int]:
        """Tokens of the row."""
        ...


class StepOrder:
    """Deals rows to steps, processes and micro-batches.

    Every row is dealt once per epoch. An epoch has ``ceil(rows / rows per step)`` steps of nearly equal size
    instead of full ones and a small rest, so a step holds ``rows per step`` rows or, where these do not
    divide the rows, a little less. Only where that would leave a process without a row (one row per process
    and step) are there fewer, slightly larger steps.

    The rows of a step depend on the product ``batch_size * accumulation * processes`` alone. How they are
    dealt does not change the gradient as long as micro-batches are weighted by their labelled tokens. A
    process may get one micro-batch more than another, and none gets more than ``batch_size`` rows in one.

    The first step of the first epoch holds the longest row, so a run that does not fit in memory fails at
    once.

    Args:
        rows: The training rows.
        batch_size: Most rows per micro-batch.
        accumulation: Micro-batches per process and step.
        seed: Of the run.
        processes: Processes training together.

    Raises:
        DataError: There are fewer rows than processes.
    """

    def __init__(
        self, rows: Sequence[HasTokens], *, batch_size: int, accumulation: int, seed: int, processes: int = 1
    ) -> None:
        if len(rows) < max(processes, 1):
            raise DataError(
                f"{len(rows)} training rows cannot be dealt to {processes} processes",
                fix="add rows, or start fewer processes",
            )
        self._lengths = [len(row.input_ids) for row in rows]
        self._batch_size = batch_size
        self._processes = processes
        self._seed = seed
        self._sizes = _step_sizes(len(rows), batch_size * accumulation * processes, processes)
        self._epoch: tuple[int, list[list[int]]] = (-1, [])

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps in which every row is seen once."""
        return len(self._sizes)

    def step(self, index: int) -> list[list[list[int]]]:
        """Row indices of optimizer step ``index``, counted from 0 over all epochs.

        Returns:
            For each process, for each of its micro-batches, the indices of its rows.
        """
        epoch, position = divmod(index, self.steps_per_epoch)
        if self._epoch[0] != epoch:
            self._epoch = (epoch, self._order(epoch))
        return deal(self._epoch[1][position], batch_size=self._batch_size, processes=self._processes)

    def _order(self, epoch: int) -> list[list[int]]:
        random = Random(f"{self._seed}/{epoch}")
        indices = list(range(len(self._lengths)))
        random.shuffle(indices)
        groups = [
            self._sizes[start : start + STEPS_PER_GROUP]
            for start in range(0, len(self._sizes), STEPS_PER_GROUP)
        ]
        steps = []
        for sizes, rows in zip(groups, _cut(indices, [sum(sizes) for sizes in groups]), strict=True):
            steps += _cut(sorted(rows, key=self._longest_first), sizes)
        random.shuffle(steps)
        if epoch == 0:
            longest = min(range(len(self._lengths)), key=self._longest_first)
            first = next(position for position, rows in enumerate(steps) if longest in rows)
            steps[0], steps[first] = steps[first], steps[0]
        return steps

    def _longest_first(self, index: int) -> tuple[int, int]:
        return -self._lengths[index], index


def deal(items: list[Item], *, batch_size: int, processes: int) -> list[list[list[Item]]]:
    """Give neighbours in length to one micro-batch, and micro-batches of like length to all processes.

    Args:
        items: What is computed in one step, longest first.
        batch_size: Most items per micro-batch.
        processes: Processes training together; at most as many as items.

    Returns:
        For each process, for each of its micro-batches, its items.
    """
    rounds = -(-len(items) // (processes * batch_size))
    count = min(len(items), processes * rounds)
    micro_batches = _cut(items, _even_sizes(len(items), count))
    return [micro_batches[process::processes] for process in range(processes)]


def _step_sizes(rows: int, rows_per_step: int, processes: int) -> list[int]:
    sizes = _even_sizes(rows, -(-rows // rows_per_step))
    return sizes if sizes[-1] >= processes else _even_sizes(rows, max(1, rows // rows_per_step))


def _even_sizes(total: int, parts: int) -> list[int]:
    """``parts`` sizes that differ by at most one, larger ones first."""
    size, larger = divmod(total, parts)
    return [size + 1] * larger + [size] * (parts - larger)


def _cut(items: list[Item], sizes: list[int]) -> list[list[Item]]:
    return [items[start:end] for start, end in pairwise(accumulate(sizes, initial=0))]
