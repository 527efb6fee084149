"""Packed rows: several rows in one sequence, of which each is computed as if it were alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from edgelora.errors import CombinationError
from edgelora.layers.row_attention import Lengths, attend_by_row, rows_of_forward, set_attention
from edgelora.protocols import Batch

Way = Callable[[Batch], AbstractContextManager[dict[str, Any]]]
"""Gives the arguments of a forward on a packed batch, to be made inside."""

TRIED: Lengths = ((5, 3), (6,))
"""Rows a model is tried with: two that share a sequence, and one with padding after it."""


@contextmanager
def forward_arguments(model: Any, batch: Batch) -> Iterator[dict[str, Any]]:
    """Arguments of a forward on ``batch``, which is to be made inside; its backward may come later.

    Raises:
        CombinationError: The batch is packed, and the model cannot keep its rows apart.
    """
    if batch.position_ids is None:
        yield {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask, "use_cache": False}
        return
    with way_to_pack(model, batch.input_ids.device)(batch) as arguments:
        yield arguments


def restarting_positions(lengths: Sequence[Sequence[int]], tokens: int) -> Tensor:
    """Position ids, int64 (sequences, tokens), that start at 0 with each row and with the padding."""
    return torch.stack([torch.cat([torch.arange(n) for n in row]) for row in _with_padding(lengths, tokens)])


def _with_padding(lengths: Sequence[Sequence[int]], tokens: int) -> Lengths:
    """With the padding of each sequence as a row of its own, where it has some."""
    rests = [tokens - sum(of_sequence) for of_sequence in lengths]
    return tuple(
        (*of_sequence, *([rest] if rest else [])) for of_sequence, rest in zip(lengths, rests, strict=True)
    )


_ways: WeakKeyDictionary[nn.Module, Way] = WeakKeyDictionary()


def way_to_pack(model: Any, device: torch.device | str = "cpu") -> Way:
    """How packed rows are kept apart on ``model``.

    Found by trying on a few short rows, so that it holds for architectures nobody listed. Adapted layers must
    not be routed for certain rows meanwhile.

    Args:
        model: A transformers causal language model with weights. Its attention may be replaced by one that
            computes the same for batches that are not packed.
        device: Where its batches are.

    Raises:
        CombinationError: There is no way: something is carried from row to row (a recurrent or convolutional
            state), or position ids are not taken.
    """
    if model not in _ways:
        _ways[model] = _find_way(model, device)
    return _ways[model]


def _find_way(model: Any, device: torch.device | str) -> Way:
    before = model.config._attn_implementation
    if attend_by_row(model):
        if not _difference(model, _by_row, device):
            return _by_row
        set_attention(model, before)
    if found := _difference(model, _by_position_ids, device):
        raise CombinationError(
            f"{type(model).__name__} cannot be trained on packed rows: {found}",
            fix="set train.packing: false",
        )
    return _by_position_ids


@contextmanager
def _by_row(batch: Batch) -> Iterator[dict[str, Any]]:
    # Under a mask, transformers makes masks as it does where a sequence is one row.
    with rows_of_forward(_with_padding(batch.row_lengths, batch.input_ids.shape[1])):
        yield {
            "input_ids": batch.input_ids,
            "attention_mask": batch.attention_mask,
            "position_ids": batch.position_ids,
            "use_cache": False,
        }


@contextmanager
def _by_position_ids(batch: Batch) -> Iterator[dict[str, Any]]:
    # Without a mask, transformers sees rows where position ids start anew.
    yield {"input_ids": batch.input_ids, "position_ids": batch.position_ids, "use_cache": False}


@torch.no_grad()
def _difference(model: Any, way: Way, device: torch.device | str) -> str:
    """What goes wrong with packed rows on ``model``; empty where nothing does."""
    alone, packed, changed = _trial(device)
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        with forward_arguments(model, alone) as arguments:
            expected = _logits_of_tokens(model, alone, arguments)
        with way(packed) as arguments:
            found = _logits_of_tokens(model, packed, arguments)
        with way(changed) as arguments:
            beside_another = _logits_of_tokens(model, changed, arguments)
    # A forward that cannot take what it is given fails in its own manner.
    except (AttributeError, LookupError, TypeError, ValueError, RuntimeError) as error:
        return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
    finally:
        for module in training:
            module.training = True
    first = TRIED[0][0]
    leak, change = _largest(beside_another[first:], found[first:]), _largest(found, expected)
    # Sums in another order round differently: those of experts where other tokens are among theirs, and all
    # sums where the shapes are others.
    leak_limit, change_limit = (3e-3, 5e-2) if model.dtype.itemsize < 4 else (1e-3, 1e-3)
    if leak <= leak_limit and change <= change_limit:
        return ""
    if leak <= leak_limit:
        return f"what it computes of a row differs by {change:.1%} from what it computes of the row alone"
    return f"what it computes of a row changes by {leak:.1%} with another row before it in the sequence"


def _logits_of_tokens(model: Any, batch: Batch, arguments: dict[str, Any]) -> Tensor:
    logits: Tensor = model(**arguments).logits[batch.attention_mask.bool()]
    return logits.float()


def _largest(logits: Tensor, others: Tensor) -> float:
    """Difference of a token's logits, relative to their norm, where it is largest."""
    return float(((logits - others).norm(dim=-1) / others.norm(dim=-1)).max())


def _trial(device: torch.device | str) -> tuple[Batch, Batch, Batch]:
    """Rows as a padded batch, the same rows packed, and these with other tokens in the first row.

    All tokens differ: between equal ones nothing could be seen to leak.
    """
    rows = [length for of_sequence in TRIED for length in of_sequence]
    sequences = [sum(of_sequence) for of_sequence in TRIED]
    positions = restarting_positions(TRIED, max(sequences)).to(device)
    packed = replace(_padded(sequences, device), position_ids=positions, row_lengths=TRIED)
    changed = replace(packed, input_ids=packed.input_ids.clone())
    changed.input_ids[0, : rows[0]] = packed.input_ids[0, : rows[0]].flip(0).roll(1)
    return _padded(rows, device), packed, changed


def _padded(lengths: Sequence[int], device: torch.device | str) -> Batch:
    mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    ids = torch.zeros(mask.shape, dtype=torch.int64)
    ids[mask] = torch.arange(1, 1 + sum(lengths))
    mask = mask.to(device, torch.int64)
    return Batch(ids.to(device), mask, labels=ids, task_ids=ids.new_zeros(len(lengths)))
