"""The mean norm of what a layer is given, by which its shortcuts are folded approximately."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from edgelora.errors import ExportUnsupported
from edgelora.layers.relay import computed_again

WINDOW = 100
"""Training forwards whose norms are averaged, as in the authors' code."""


class NormWindow(nn.Module):
    """The norms of the last training forwards, which are saved with the adapter and in checkpoints.

    Of a tensor's Frobenius norm over the square root of its tokens, so that a batch of more tokens counts no
    more than another; the authors take the norm itself. Padding counts as tokens: in all layers alike.

    Attributes:
        values: (100,), float32, the latest last; 0 where there was no forward yet.
    """

    values: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("values", torch.zeros(WINDOW))

    @torch.no_grad()
    def observe(self, x: Tensor) -> None:
        """Note the norm of ``x`` (..., width) in training, once where blocks are computed twice."""
        if self.training and not computed_again():
            tokens = x.numel() // x.shape[-1]
            norm = torch.linalg.vector_norm(x, dtype=torch.float32) / math.sqrt(tokens)
            self.values.copy_(torch.cat([self.values[1:], norm[None]]))

    def mean(self, name: str) -> Tensor:
        """Over the forwards there were, a scalar; ``name`` is the site's.

        Raises:
            ExportUnsupported: There were none.
        """
        seen = self.values.count_nonzero()
        if not seen:
            raise ExportUnsupported(
                f"{name} has no norms to fold by: it never computed a training batch",
                fix="train it, or apply it unfolded: edgelora generate --adapter",
            )
        return self.values.sum() / seen
