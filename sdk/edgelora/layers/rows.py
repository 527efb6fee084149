"""Which adapter each row of a batch is of, and in how few products all of them are computed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import NamedTuple

import torch
from torch import Tensor

from edgelora.errors import PlanError


class Place(NamedTuple):
    """Where a layer keeps the factors of an adapter."""

    bank: int
    slot: int


class Run(NamedTuple):
    """Rows of one adapter that stand side by side."""

    adapter: str
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class Product:
    """A batched product: neighbouring slots of one bank, each with as many rows as the fullest.

    Attributes:
        bank: Which.
        slots: Of the bank.
        rows: The rows, where they stand in the order of the slots already, equally many for each; else None.
        taken: int64 (slots x rows of each,): which row stands where; short slots are filled with some row.
        kept: int64, which of ``taken`` are no filling; None where none is.
        given: int64, the rows the kept ones are.
    """

    bank: int
    slots: slice
    rows: slice | None
    taken: Tensor | None = None
    kept: Tensor | None = None
    given: Tensor | None = None


@dataclass(frozen=True, slots=True)
class Assignment:
    """Which adapter each row of a batch is of, worked out once for all layers.

    Attributes:
        names: By row, None for the base alone; None where every row is alike, whatever the batch.
        adapters: Those that are named, each once.
        runs: The rows with an adapter as they stand.
        device: Of the model.
    """

    names: tuple[str | None, ...] | None
    adapters: tuple[str, ...]
    runs: tuple[Run, ...] = ()
    device: torch.device | None = None
    _products: dict[tuple[Place | None, ...], tuple[Product, ...]] = field(default_factory=dict)

    def check(self, x: Tensor, *, adapts: bool) -> None:
        """Refuse a layer's input, (rows, ..., in), that is of another number of rows.

        Args:
            x: The input. One of two dimensions may be tokens in an order of their own, as experts get them,
                even where there are as many as rows: there every row has to be of the same adapter.
            adapts: Whether an adapter that is named is at this layer; tokens without their rows are for the
                base where none is.

        Raises:
            PlanError: As said.
        """
        if self.names is None:
            return
        told_apart = x.dim() >= 3 or len(set(self.names)) == 1
        if (x.dim() >= 3 or adapts) and (not told_apart or len(x) != len(self.names)):
            raise PlanError(
                f"adapters were chosen for {len(self.names)} rows, and a layer got an input of shape "
                f"{tuple(x.shape)}: the batch is another one, or its tokens come without their rows, as "
                "experts get them",
                fix="name an adapter for each row of the batch, each beam being a row; where experts are "
                "adapted, use one adapter for all rows",
            )

    def products(self, places: Mapping[str, Place]) -> tuple[Product, ...]:
        """The products that compute the rows of a layer whose adapters are at ``places``.

        Layers with the same places share them. Their number is that of stretches of slots in use, as long as
        filling makes them no more than twice as long.
        """
        key = tuple(map(places.get, self.adapters))
        if key not in self._products:
            self._products[key] = tuple(self._plan(places))
        return self._products[key]

    def _plan(self, places: Mapping[str, Place]) -> list[Product]:
        rows: dict[Place, list[int]] = {}
        for row, name in enumerate(self.names or ()):
            if name is not None and name in places:
                rows.setdefault(places[name], []).append(row)
        stretches: list[list[Place]] = []
        for place in sorted(rows):
            if stretches and _are_one_product([*stretches[-1], place], rows):
                stretches[-1].append(place)
            else:
                stretches.append([place])
        return [self._product(stretch, rows) for stretch in stretches]

    def _product(self, stretch: list[Place], rows: Mapping[Place, list[int]]) -> Product:
        bank, first = stretch[0]
        slots = slice(first, stretch[-1].slot + 1)
        given = [row for place in stretch for row in rows[place]]
        if given == list(range(given[0], given[0] + len(given))) and _is_full(stretch, rows):
            return Product(bank, slots, slice(given[0], given[0] + len(given)))
        each = max(len(rows[place]) for place in stretch)
        taken, kept = [], []
        for slot in range(slots.start, slots.stop):
            own = rows.get(Place(bank, slot), [])
            kept += range(len(taken), len(taken) + len(own))
            taken += own + [given[0]] * (each - len(own))
        filled = None if len(kept) == len(taken) else self._tensor(kept)
        return Product(bank, slots, None, self._tensor(taken), filled, self._tensor(given))

    def _tensor(self, rows: list[int]) -> Tensor:
        return torch.tensor(rows, device=self.device)


def every_row(adapter: str | None) -> Assignment:
    """Every row alike, whatever the batch."""
    return Assignment(None, (adapter,) if adapter is not None else ())


def assign_rows(names: Sequence[str | None], device: torch.device | None = None) -> Assignment:
    """One adapter for each row.

    >>> [tuple(run) for run in assign_rows(["a", "a", None, "b", "a"]).runs]
    [('a', 0, 2), ('b', 3, 4), ('a', 4, 5)]

    Args:
        names: By row; None leaves a row to the base.
        device: Of the model.
    """
    runs, start = [], 0
    for name, alike in groupby(names):
        stop = start + len(list(alike))
        if name is not None:
            runs.append(Run(name, start, stop))
        start = stop
    adapters = tuple(dict.fromkeys(run.adapter for run in runs))
    return Assignment(tuple(names), adapters, tuple(runs), device)


def _are_one_product(stretch: list[Place], rows: Mapping[Place, list[int]]) -> bool:
    counts = [len(rows[place]) for place in stretch]
    slots = stretch[-1].slot - stretch[0].slot + 1
    return stretch[0].bank == stretch[-1].bank and max(counts) * slots <= 2 * sum(counts)


def _is_full(stretch: list[Place], rows: Mapping[Place, list[int]]) -> bool:
    """Whether each slot from the first to the last has equally many rows."""
    slots = stretch[-1].slot - stretch[0].slot + 1
    return slots == len(stretch) and len({len(rows[place]) for place in stretch}) == 1
