"""Attention of packed rows, computed row by row.

It costs the sum of the rows' squared lengths, where a mask over the sequence costs the square of their sum,
and there is no mask of (tokens x tokens). What is not packed gets SDPA as transformers has it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask
from transformers.utils import logging

BY_ROW = "edgelora_by_row"
"""Name of this attention for transformers."""

Lengths = tuple[tuple[int, ...], ...]
"""Tokens of each row of each sequence of a batch."""


def attend_by_row(model: Any) -> bool:
    """Let a model that attends with SDPA attend by row; answers whether it does."""
    if model.config._attn_implementation != "sdpa":
        return False
    AttentionInterface.register(BY_ROW, _attend)
    AttentionMaskInterface.register(BY_ROW, _masks)
    set_attention(model, BY_ROW)
    return bool(model.config._attn_implementation == BY_ROW)


def set_attention(model: Any, implementation: str) -> None:
    """Name a model's attention, where the model has the choice."""
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # it warns where there is none
    try:
        model.set_attn_implementation(implementation)
    finally:
        logging.set_verbosity(verbosity)


@contextmanager
def rows_of_forward(lengths: Lengths) -> Iterator[None]:
    """A forward made inside is of rows of these lengths, which add up to the tokens of their sequences."""
    token = _lengths.set(lengths)
    try:
        yield
    finally:
        _lengths.reset(token)


_lengths: ContextVar[Lengths | None] = ContextVar("row lengths", default=None)
# For the masks only. Layers get the lengths with their masks: a forward of theirs that is repeated in the
# backward pass, for gradient checkpointing, is outside of the context.


@dataclass(frozen=True, slots=True)
class RowMasks:
    """In the place of an attention mask: where the rows are, and the mask that each would have alone."""

    lengths: Lengths
    masks: Mapping[int, Tensor | None]
    """By length of the row: bool (1, 1, length, length), or None where the row is plainly causal."""


def _masks(**asked: Any) -> RowMasks | Tensor | None:
    """As transformers' ``sdpa_mask``, whose caller decides how far a layer looks back."""
    lengths = _lengths.get()
    if lengths is None:
        plain: Tensor | None = sdpa_mask(**asked)
        return plain
    alone = {"batch_size": 1, "attention_mask": None}
    different = {length for of_sequence in lengths for length in of_sequence}
    masks = {n: sdpa_mask(**{**asked, **alone, "q_length": n, "kv_length": n}) for n in different}
    return RowMasks(lengths, masks)


def _attend(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Any, **options: Any
) -> tuple[Tensor, None]:
    """As transformers' ``sdpa_attention_forward``.

    Args:
        module: The attention of a layer.
        query: (batch, heads, tokens, width of a head).
        key: (batch, heads of keys, tokens, width of a head).
        value: (batch, heads of keys, tokens, width of a value).
        attention_mask: What `_masks` gave.
        options: Scaling, dropout and what else the model passes on.

    Returns:
        (batch, tokens, heads, width of a value), and no weights.
    """
    if not isinstance(attention_mask, RowMasks):
        plain: tuple[Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, **options
        )
        return plain
    sequences = zip(query.split(1), key.split(1), value.split(1), attention_mask.lengths, strict=True)
    return torch.cat(
        [
            _attend_in_sequence(module, tensors, lengths, attention_mask.masks, options)
            for *tensors, lengths in sequences
        ]
    ), None


def _attend_in_sequence(
    module: nn.Module,
    tensors: Sequence[Tensor],
    lengths: tuple[int, ...],
    masks: Mapping[int, Tensor | None],
    options: Mapping[str, Any],
) -> Tensor:
    # Split, not sliced: the backward of a slice fills a tensor of the whole sequence for each row.
    rows = zip(*(tensor.split(lengths, dim=2) for tensor in tensors), lengths, strict=True)
    return torch.cat(
        [
            sdpa_attention_forward(module, query, key, value, masks[length], **options)[0]
            for query, key, value, length in rows
        ],
        dim=1,
    )
