"""The rows of a step packed into sequences, so that little of what is computed is padding."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Protocol

from edgelora.engine.data.order import HasTokens, deal

Dealt = Sequence[Sequence[Sequence[int]]]
"""For each process, for each of its micro-batches, the indices of its rows."""

Packed = list[list[list[list[int]]]]
"""For each process, for each of its micro-batches, for each of its sequences, the indices of its rows."""


class HasTask(HasTokens, Protocol):
    """Anything with tokens and a task, such as a `Row`."""

    @property
    def task(self) -> int:
        """Number of the task."""
        ...


def pack_step(dealt: Dealt, rows: Sequence[HasTask], *, batch_size: int, max_length: int) -> Packed:
    """Pack the rows of an optimizer step, as `StepOrder` dealt them.

    They stay the rows of that step, so packing changes what a step costs and not what it computes. Like
    everything about a step, how they are packed follows from seed and step alone.

    A sequence holds rows of one task and at most ``max_length`` tokens. There are as few sequences as
    first-fit decreasing finds, or a few more so that processes get equally many, and those of a task are
    about equally long.

    Args:
        dealt: At least one row for each process.
        rows: The training rows.
        batch_size: Most sequences per micro-batch.
        max_length: Most tokens per sequence; no row is longer.
    """
    lengths = {index: len(rows[index].input_ids) for each in dealt for index in chain.from_iterable(each)}
    by_task: dict[int, list[int]] = {}
    for index in sorted(lengths, key=lambda index: (-lengths[index], index)):
        by_task.setdefault(rows[index].task, []).append(index)
    fewest = {task: _first_fit(of_task, lengths, max_length) for task, of_task in by_task.items()}
    counts = _counts(fewest, lengths, len(dealt))
    sequences = []
    for task, of_task in by_task.items():
        levelled = _level(of_task, lengths, counts[task], max_length)
        # Levelled ones may fit less well. Where there are to be more than the fewest, that does not matter.
        sequences += fewest[task] if len(fewest[task]) == counts[task] < len(levelled) else levelled
    sequences.sort(key=lambda sequence: (-_tokens(sequence, lengths), sequence))
    return deal(sequences, batch_size=batch_size, processes=len(dealt))


@dataclass(frozen=True, slots=True)
class PackingReport:
    """How well rows pack."""

    rows: int
    sequences: int
    tokens: int
    """Of the rows."""
    computed: int
    """Tokens and padding."""
    largest: int
    """Tokens and padding of the largest micro-batch."""

    def line(self) -> str:
        """For people."""
        return (
            f"packing: {self.rows:,} rows in {self.sequences:,} sequences, "
            f"{self.tokens / self.computed:.0%} full, "
            f"at most {self.largest:,} tokens at a time"
        )


def report_packing(
    steps: Iterable[Dealt], rows: Sequence[HasTask], *, batch_size: int, max_length: int
) -> PackingReport:
    """Pack some steps as a run will.

    Args:
        steps: As `StepOrder` deals them; at least one.
        rows: The training rows.
        batch_size: Most sequences per micro-batch.
        max_length: Most tokens per sequence.
    """
    counted = sequences = tokens = computed = largest = 0
    for dealt in steps:
        for micro_batch in chain.from_iterable(dealt):
            counted += len(micro_batch)
            tokens += sum(len(rows[index].input_ids) for index in micro_batch)
        packed = pack_step(dealt, rows, batch_size=batch_size, max_length=max_length)
        for together in chain.from_iterable(packed):
            longest = max(sum(len(rows[index].input_ids) for index in sequence) for sequence in together)
            sequences, computed = sequences + len(together), computed + len(together) * longest
            largest = max(largest, len(together) * longest)
    return PackingReport(counted, sequences, tokens, computed, largest)


def _first_fit(longest_first: list[int], lengths: Mapping[int, int], max_length: int) -> list[list[int]]:
    sequences: list[list[int]] = []
    rooms: list[int] = []
    for index in longest_first:
        place = next((place for place, room in enumerate(rooms) if room >= lengths[index]), len(rooms))
        if place == len(rooms):
            sequences.append([])
            rooms.append(max_length)
        sequences[place].append(index)
        rooms[place] -= lengths[index]
    return sequences


def _level(
    longest_first: list[int], lengths: Mapping[int, int], count: int, max_length: int
) -> list[list[int]]:
    """Each row in the emptiest of ``count`` sequences, or in another one where none has room."""
    sequences: list[list[int]] = [[] for _ in range(count)]
    tokens = [0] * count
    for index in longest_first:
        place = min(range(len(tokens)), key=tokens.__getitem__)
        if tokens[place] + lengths[index] > max_length:
            place = len(tokens)
            sequences.append([])
            tokens.append(0)
        sequences[place].append(index)
        tokens[place] += lengths[index]
    return sequences


def _counts(
    fewest: Mapping[int, list[list[int]]], lengths: Mapping[int, int], processes: int
) -> dict[int, int]:
    """Sequences of each task: the fewest, and then more, shorter ones until all processes get as many."""
    counts = {task: len(sequences) for task, sequences in fewest.items()}
    rows = {task: sum(map(len, sequences)) for task, sequences in fewest.items()}
    tokens = {task: sum(_tokens(sequence, lengths) for sequence in each) for task, each in fewest.items()}
    while sum(counts.values()) % processes and (
        able := [task for task in counts if counts[task] < rows[task]]
    ):
        counts[max(able, key=lambda task: (tokens[task] / counts[task], -task))] += 1
    return counts


def _tokens(sequence: Sequence[int], lengths: Mapping[int, int]) -> int:
    return sum(lengths[index] for index in sequence)
