"""Cross-entropy of a causal language model without the full (tokens × vocabulary) logits."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from edgelora.layers.frozen_head import token_losses
from edgelora.layers.logits import way_to_logits
from edgelora.layers.packed import forward_arguments
from edgelora.protocols import Batch

IGNORED = -100
"""Label of a token on which no loss is taken."""

_ToLosses = Callable[[Tensor, Tensor, int], Tensor]
"""Losses (n,) from hidden states (n, width), targets (n,), and how many of them may have logits at a time."""


def row_losses(model: Any, batch: Batch, chunk: int = 128) -> tuple[Tensor, Tensor]:
    """Summed cross-entropy and labelled tokens of each row, or of each sequence of a packed batch.

    Only positions that predict a labelled token reach the output head and what follows it (capping, scaling),
    ``chunk`` of them at a time. Their logits are not kept: where the head is frozen, what the backward pass
    needs of them is computed with them; where it learns, they are computed again. A model whose logits cannot
    be had from single hidden states gets all its logits at once, with a warning.

    Args:
        model: A transformers causal language model.
        batch: Padded rows on the model's device; labels are not shifted.
        chunk: Labelled tokens whose logits exist at the same time.

    Returns:
        Sums in nats, float32 (batch,), and counts, int64 (batch,).
    """
    targets = batch.labels[:, 1:]
    rows, positions = (targets != IGNORED).nonzero(as_tuple=True)
    hidden, losses_of = _hidden_states(model, batch)
    sums = torch.zeros(len(targets), dtype=torch.float32, device=hidden.device)
    if len(rows):
        losses = losses_of(hidden[rows, positions], targets[rows, positions], chunk)
        sums = sums.index_add(0, rows, losses)
    return sums, (targets != IGNORED).sum(dim=1)


def _hidden_states(model: Any, batch: Batch) -> tuple[Tensor, _ToLosses]:
    """What goes into the head, (batch, tokens, width), and how to have the losses of some of it."""
    way = way_to_logits(model, batch.input_ids[:, :4])
    with forward_arguments(model, batch) as inputs:
        if way is None:
            # From the end: before a row some adapters put virtual tokens, which have logits too.
            logits = model(**inputs).logits[:, -batch.input_ids.shape[1] :]
            return logits, partial(_recomputed_losses, nn.Identity())
        output = model.base_model(**inputs)
    logits_of = partial(way.logits_of, model, type(output))
    if _learns_behind(model):
        return output.last_hidden_state, partial(_recomputed_losses, logits_of)
    return output.last_hidden_state, partial(token_losses, logits_of, overwrite=way.is_head)


def _recomputed_losses(
    logits_of: Callable[[Tensor], Tensor], hidden: Tensor, targets: Tensor, chunk: int
) -> Tensor:
    """Cross-entropy of each token, float32 (n,), where what makes the logits learns too."""
    losses = [
        checkpoint(_token_losses, logits_of, some, chosen, use_reentrant=False)
        for some, chosen in zip(hidden.split(chunk), targets.split(chunk), strict=True)
    ]
    return torch.cat(losses)


def _token_losses(logits_of: Callable[[Tensor], Tensor], hidden: Tensor, targets: Tensor) -> Tensor:
    return functional.cross_entropy(logits_of(hidden).float(), targets, reduction="none")


def _learns_behind(model: Any) -> bool:
    """Whether anything learns that the hidden states go through."""
    if any(parameter.requires_grad for parameter in model.get_output_embeddings().parameters()):
        return True

    def learns(module: nn.Module) -> bool:
        if module is model.base_model:
            return False
        own = any(parameter.requires_grad for parameter in module.parameters(recurse=False))
        return own or any(map(learns, module.children()))

    return learns(model)
