"""Rows of unequal length as one padded batch, each in a sequence of its own or several packed into one."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import replace

import torch

from edgelora.engine.data.dataset import Row
from edgelora.layers.loss import IGNORED
from edgelora.layers.packed import restarting_positions
from edgelora.protocols import Batch


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


def collate_packed(
    sequences: Sequence[Sequence[Row]], pad_id: int, device: torch.device | str = "cpu"
) -> Batch:
    """Put the rows of each sequence, all of one task, behind one another, and pad the sequences.

    No row predicts the first token of the next.
    """
    batch = collate([_joined(rows) for rows in sequences], pad_id, device)
    lengths = tuple(tuple(len(row.input_ids) for row in rows) for rows in sequences)
    positions = restarting_positions(lengths, batch.input_ids.shape[1])
    origins = tuple(row.origin for rows in sequences for row in rows)
    return replace(batch, rows=origins, position_ids=positions.to(device), row_lengths=lengths)


def _joined(rows: Sequence[Row]) -> Row:
    ids, labels = array("i"), array("i")
    for row in rows:
        ids.extend(row.input_ids)
        labels.append(IGNORED)
        labels.extend(row.labels[1:])
    return Row(ids, labels, rows[0].task, rows[0].origin, None, None)
