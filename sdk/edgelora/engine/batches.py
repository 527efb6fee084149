"""Rows as padded batches, for whoever looks at data outside the training loop."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from edgelora.capabilities import TaskAware
from edgelora.engine.data import Row, StepOrder, collate
from edgelora.layers.generate import pad_id
from edgelora.protocols import Batch


class PaddedBatches:
    """Rows as padded batches, shortest first; each pass starts anew and routes the layers."""

    def __init__(
        self,
        rows: list[Row],
        layers: Mapping[str, nn.Module],
        tokenizer: Any,
        device: torch.device,
        batch_size: int = 16,
    ) -> None:
        self.layers = layers
        self.pad_id = pad_id(tokenizer)
        self.device = device
        self.batches = _cut(sorted(rows, key=lambda row: len(row.input_ids)), batch_size)

    def __iter__(self) -> Iterator[Batch]:
        for rows in self.batches:
            batch = collate(rows, self.pad_id, self.device)
            for layer in self.layers.values():
                if isinstance(layer, TaskAware):
                    layer.route(batch.task_ids)
            yield batch


class DealtBatches(PaddedBatches):
    """The micro-batches of the first epoch in the order training will take them, of all lengths."""

    def __init__(
        self,
        rows: list[Row],
        layers: Mapping[str, nn.Module],
        tokenizer: Any,
        device: torch.device,
        batch_size: int = 16,
        *,
        seed: int,
    ) -> None:
        super().__init__(rows, layers, tokenizer, device, batch_size)
        order = StepOrder(rows, batch_size=batch_size, accumulation=1, seed=seed)
        dealt = [order.step(step)[0] for step in range(order.steps_per_epoch)]
        self.batches = [
            [rows[index] for index in micro_batch] for micro_batches in dealt for micro_batch in micro_batches
        ]


def _cut(rows: Sequence[Row], size: int) -> list[list[Row]]:
    return [list(rows[start : start + size]) for start in range(0, len(rows), size)]
