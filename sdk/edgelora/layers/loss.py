"""Cross-entropy of a causal language model without the full (tokens × vocabulary) logits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from edgelora.protocols import Batch

IGNORED = -100
"""Label of a token on which no loss is taken."""


def row_losses(model: Any, batch: Batch, chunk: int = 512) -> tuple[Tensor, Tensor]:
    """Summed cross-entropy and labelled tokens of each row.

    Only positions that predict a labelled token reach the output head, ``chunk`` of them at a time; their
    logits are computed again in the backward pass instead of being kept.

    Args:
        model: A transformers causal language model.
        batch: Padded rows on the model's device; labels are not shifted.
        chunk: Labelled tokens whose logits exist at the same time.

    Returns:
        Sums in nats, float32 (batch,), and counts, int64 (batch,).
    """
    targets = batch.labels[:, 1:]
    rows, positions = (targets != IGNORED).nonzero(as_tuple=True)
    hidden, logits_of = _hidden_and_head(model, batch)
    losses = [
        checkpoint(
            _token_losses,
            logits_of,
            hidden[some_rows, some_positions],
            targets[some_rows, some_positions],
            use_reentrant=False,
            preserve_rng_state=False,
        )
        for some_rows, some_positions in zip(rows.split(chunk), positions.split(chunk), strict=True)
    ]
    sums = torch.zeros(len(targets), dtype=torch.float32, device=hidden.device)
    if losses:
        sums = sums.index_add(0, rows, torch.cat(losses))
    return sums, (targets != IGNORED).sum(dim=1)


def _token_losses(logits_of: Callable[[Tensor], Tensor], hidden: Tensor, targets: Tensor) -> Tensor:
    return functional.cross_entropy(logits_of(hidden).float(), targets, reduction="none")


def _hidden_and_head(model: Any, batch: Batch) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    inputs = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask, "use_cache": False}
    if _head_ends_the_model(model):
        return model.base_model(**inputs).last_hidden_state, model.get_output_embeddings()
    return model(**inputs).logits, nn.Identity()


_ends_with_head: WeakKeyDictionary[nn.Module, bool] = WeakKeyDictionary()


@torch.no_grad()
def _head_ends_the_model(model: Any) -> bool:
    """Whether the logits are the output head of the last hidden state, with no scaling or capping after it.

    Found by trying, so that it holds for architectures nobody listed. Where it does not hold, the model's own
    logits are used, all of them.
    """
    if model not in _ends_with_head:
        training = [module for module in model.modules() if module.training]
        model.eval()
        ids = torch.arange(4, device=model.get_input_embeddings().weight.device)[None]
        head = model.get_output_embeddings()
        if head is None or model.base_model is model:
            _ends_with_head[model] = False
        else:
            hidden = model.base_model(input_ids=ids, use_cache=False).last_hidden_state
            logits = model(input_ids=ids, use_cache=False).logits
            _ends_with_head[model] = torch.allclose(head(hidden), logits, rtol=1e-3, atol=1e-5)
        for module in training:
            module.training = True
    return _ends_with_head[model]
