"""The micro-batches of a run: padded rows, or rows packed into sequences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import nn

from edgelora.capabilities import TaskAware
from edgelora.engine.data import (
    PackingReport,
    Row,
    StepOrder,
    collate,
    collate_packed,
    pack_step,
    report_packing,
)
from edgelora.engine.data.packing import Dealt
from edgelora.layers.packed import way_to_pack
from edgelora.recipe import TrainSettings


class PaddedRows:
    """Every row is a sequence of its own."""

    collate = staticmethod(collate)

    def __init__(self, rows: Sequence[Row], settings: TrainSettings) -> None:
        self.rows = rows

    def of_step(self, dealt: Dealt) -> list[list[list[Row]]]:
        """For each process, for each of its micro-batches, the rows."""
        return [[[self.rows[index] for index in each] for each in micro_batches] for micro_batches in dealt]


class PackedRows:
    """Rows of a step share sequences of at most ``max_length`` tokens, ``batch_size`` sequences at a time."""

    collate = staticmethod(collate_packed)

    def __init__(self, rows: Sequence[Row], settings: TrainSettings) -> None:
        self.rows = rows
        self.limits = {"batch_size": settings.batch_size, "max_length": settings.max_length}

    def of_step(self, dealt: Dealt) -> list[list[list[list[Row]]]]:
        """For each process, for each of its micro-batches, for each of its sequences, the rows."""
        return [
            [[[self.rows[index] for index in sequence] for sequence in each] for each in micro_batches]
            for micro_batches in pack_step(dealt, self.rows, **self.limits)
        ]

    def report(self, order: StepOrder, steps: int) -> PackingReport:
        """How well the rows of the first epoch pack, as far as the run of ``steps`` gets in it."""
        first_epoch = range(min(steps, order.steps_per_epoch))
        return report_packing(map(order.step, first_epoch), self.rows, **self.limits)


def check_packing(model: nn.Module, layers: Mapping[str, nn.Module], device: torch.device) -> None:
    """Try whether an adapted model computes packed rows as it computes them alone.

    Raises:
        CombinationError: It does not.
    """
    every_row_alike = torch.zeros((), dtype=torch.int64)
    for layer in layers.values():
        if isinstance(layer, TaskAware):
            layer.route(every_row_alike)
    way_to_pack(model, device)
