"""Cross-entropy behind an output head that does not learn, without computing any logits twice."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from edgelora.layers.scratch import scratch

BLOCK = 1 << 21
"""Logits that exist in float32 at the same time, as far as one token has not more."""


def token_losses(
    logits_of: Callable[[Tensor], Tensor], hidden: Tensor, targets: Tensor, chunk: int, *, overwrite: bool
) -> Tensor:
    """Cross-entropy of each token in nats, float32 (n,), where only the hidden states learn.

    A loss is a number for each token, so its gradient with respect to the hidden state is known before
    anything is made of the losses: it is computed in the forward pass, while the logits are there, and
    multiplied in the backward pass with what arrives. One chunk's logits exist at a time.

    Args:
        logits_of: (m, width) -> (m, vocabulary) for any m, each row by itself.
        hidden: (n, width).
        targets: int64 (n,).
        chunk: The largest m.
        overwrite: Whether logits are a linear's own output, whose memory may take their gradient.
    """
    if torch.is_grad_enabled() and hidden.requires_grad:
        losses: Tensor = _Losses.apply(hidden, targets, logits_of, chunk, overwrite)
        return losses
    found = [
        _cross_entropy(logits_of(some), chosen)
        for some, chosen in zip(hidden.split(chunk), targets.split(chunk), strict=True)
    ]
    return torch.cat(found)


class _Losses(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        targets: Tensor,
        logits_of: Callable[[Tensor], Tensor],
        chunk: int,
        overwrite: bool,
    ) -> Tensor:
        losses, gradients = [], torch.empty_like(hidden)
        chunks = zip(hidden.split(chunk), gradients.split(chunk), targets.split(chunk), strict=True)
        for some, gradient, chosen in chunks:
            losses.append(_losses_of_chunk(logits_of, some, chosen, gradient, overwrite))
        ctx.save_for_backward(gradients)
        return torch.cat(losses)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *given: Tensor) -> tuple[Tensor | None, ...]:
        (gradients,) = ctx.saved_tensors
        # In float32, and rounded once: a mean over many tokens is a factor that 16 bits do not hold.
        scaled = torch.mul(gradients, given[0][:, None], out=torch.empty_like(gradients))
        return scaled, None, None, None, None


# A function of its own: its logits are gone before those of the next chunk are made.
def _losses_of_chunk(
    logits_of: Callable[[Tensor], Tensor], hidden: Tensor, targets: Tensor, gradient: Tensor, overwrite: bool
) -> Tensor:
    """Float32 (n,); fills ``gradient`` (n, width) with those of ``hidden``."""
    with torch.enable_grad():
        leaf = hidden.detach().requires_grad_()
        logits = logits_of(leaf)
    of_logits = logits.detach() if overwrite else torch.empty_like(logits)
    losses = _cross_entropy(logits.detach(), targets, of_logits)
    gradient.copy_(torch.autograd.grad(logits, leaf, of_logits)[0])
    return losses


def _cross_entropy(logits: Tensor, targets: Tensor, of_logits: Tensor | None = None) -> Tensor:
    """Float32 (n,), for logits (n, vocabulary); its gradient goes into ``of_logits``, which may be them."""
    step = max(1, BLOCK // logits.shape[-1])
    losses = torch.empty(len(logits), dtype=torch.float32, device=logits.device)
    for start in range(0, len(logits), step):
        rows = slice(start, start + step)
        chosen = targets[rows, None]
        # In memory that is reused: large pieces between small ones that stay would leave holes in the heap.
        exact = scratch(logits[rows].shape, torch.float32, logits.device).copy_(logits[rows])
        exact.sub_(exact.amax(dim=1, keepdim=True))
        of_target = exact.gather(1, chosen)
        total = exact.exp_().sum(dim=1, keepdim=True)
        losses[rows] = (total.log() - of_target)[:, 0]
        if of_logits is not None:
            # Softmax less one at the target.
            probabilities = exact.div_(total)
            probabilities.scatter_add_(1, chosen, probabilities.new_full(chosen.shape, -1.0))
            of_logits[rows] = probabilities
    return losses
