"""Cross-entropy of a causal language model without the full (tokens × vocabulary) logits."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from edgelora.layers.packed import forward_arguments
from edgelora.protocols import Batch

IGNORED = -100
"""Label of a token on which no loss is taken."""

LogitsOf = Callable[[Any, Any, Tensor], Tensor]
"""Logits (n, vocabulary) from a model, an output of its backbone, and hidden states (n, width)."""


def row_losses(model: Any, batch: Batch, chunk: int = 512) -> tuple[Tensor, Tensor]:
    """Summed cross-entropy and labelled tokens of each row, or of each sequence of a packed batch.

    Only positions that predict a labelled token reach the output head and what follows it (capping, scaling),
    ``chunk`` of them at a time; their logits are computed again in the backward pass instead of being kept.
    A model whose logits cannot be had from single hidden states gets all its logits at once, with a warning.

    Args:
        model: A transformers causal language model.
        batch: Padded rows on the model's device; labels are not shifted.
        chunk: Labelled tokens whose logits exist at the same time.

    Returns:
        Sums in nats, float32 (batch,), and counts, int64 (batch,).
    """
    targets = batch.labels[:, 1:]
    rows, positions = (targets != IGNORED).nonzero(as_tuple=True)
    hidden, logits_of = _hidden_and_logits(model, batch)
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


def _hidden_and_logits(model: Any, batch: Batch) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    logits_of = _way_to_logits(model, batch.input_ids[:, :4])
    with forward_arguments(model, batch) as inputs:
        if logits_of is None:
            return model(**inputs).logits, nn.Identity()
        output = model.base_model(**inputs)
    kind = type(output)
    return output.last_hidden_state, lambda hidden: logits_of(model, kind, hidden)


def _logits_of_the_model(model: Any, kind: Any, hidden: Tensor) -> Tensor:
    """By the model's own forward, with ``hidden`` in the place of what its backbone computes."""
    unused_ids = torch.zeros(1, len(hidden), dtype=torch.int64, device=hidden.device)
    with _returning(model.base_model, kind(last_hidden_state=hidden[None])):
        logits: Tensor = model(input_ids=unused_ids, use_cache=False).logits
    return logits[0]


def _logits_of_the_head(model: Any, kind: Any, hidden: Tensor) -> Tensor:
    logits: Tensor = model.get_output_embeddings()(hidden)
    return logits


@contextmanager
def _returning(backbone: nn.Module, output: Any) -> Iterator[None]:
    """Inside, ``backbone`` computes nothing and returns ``output``."""
    # Other libraries replace ``forward`` on the instance as well (accelerate): theirs is put back.
    replaced = vars(backbone).get("forward")
    vars(backbone)["forward"] = lambda *args, **options: output
    try:
        yield
    finally:
        if replaced is None:
            del vars(backbone)["forward"]
        else:
            vars(backbone)["forward"] = replaced


_ways: WeakKeyDictionary[nn.Module, LogitsOf | None] = WeakKeyDictionary()


def _way_to_logits(model: Any, ids: Tensor) -> LogitsOf | None:
    """How to have the logits of some hidden states; None where there is no way but all logits at once.

    Found by trying on ``ids``, so that it holds for architectures nobody listed. Those are as many rows as
    the batch has, because adapted layers are routed to them already.
    """
    if model not in _ways:
        ways = (_logits_of_the_model, _logits_of_the_head)
        _ways[model] = next((way for way in ways if _gives_the_logits(way, model, ids)), None)
        if _ways[model] is None:
            warnings.warn(
                f"the logits of {type(model).__name__} do not follow from one hidden state each: its loss "
                "takes memory for all tokens x vocabulary; lower train.batch_size or train.max_length",
                stacklevel=3,
            )
    return _ways[model]


@torch.no_grad()
def _gives_the_logits(way: LogitsOf, model: Any, ids: Tensor) -> bool:
    if model.base_model is model or model.get_output_embeddings() is None:
        return False
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        output = model.base_model(input_ids=ids, use_cache=False)
        hidden = output.last_hidden_state.flatten(0, 1)
        logits = model(input_ids=ids, use_cache=False).logits.flatten(0, 1)
        # With a tolerance, a head that is followed by a weak capping would pass for the end of the model.
        if not torch.equal(way(model, type(output), hidden), logits):
            return False
        # The place of a hidden state in its chunk must not matter; a kernel may round by place.
        turned = way(model, type(output), hidden.flip(0)).flip(0)
        return torch.allclose(turned, logits, rtol=1e-2, atol=1e-3)
    # A forward that wants more of its backbone's output than the last hidden state fails in its own manner.
    except (AttributeError, LookupError, TypeError, ValueError, RuntimeError):
        return False
    finally:
        for module in training:
            module.training = True
