"""Rows of unequal length as one padded batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from edgelora.layers.loss import IGNORED
from edgelora.protocols import Batch

if TYPE_CHECKING:
    from edgelora.engine.data.dataset import Row


def collate(rows: Sequence[Row], pad_id: int, device: torch.device | str = "cpu") -> Batch:
    """Pad ``rows`` on the right to the longest of them.

    What is padding is decided by the rows' lengths, never by ``pad_id``, which may well be the id of a real
    end-of-sequence token.
    """
    shape = len(rows), max(len(row.input_ids) for row in rows)
    input_ids = torch.full(shape, pad_id, dtype=torch.int64)
    attention_mask = torch.zeros(shape, dtype=torch.int64)
    labels = torch.full(shape, IGNORED, dtype=torch.int64)
    for index, row in enumerate(rows):
        length = len(row.input_ids)
        input_ids[index, :length] = torch.tensor(row.input_ids)
        labels[index, :length] = torch.tensor(row.labels)
        attention_mask[index, :length] = 1
    return Batch(
        input_ids=input_ids.to(device),
        attention_mask=attention_mask.to(device),
        labels=labels.to(device),
        task_ids=torch.tensor([row.task for row in rows], dtype=torch.int64, device=device),
        rows=tuple(row.origin for row in rows),
    )
