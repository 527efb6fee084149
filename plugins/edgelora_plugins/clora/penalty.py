"""The forgetting penalty of C-LoRA, without a matrix of the size of the weight."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from edgelora.protocols import Factors

PIECE = 1 << 20
"""Elements of the weight that are looked at together, as far as a row has not more."""


def overlap(change: Factors, past: Factors) -> Tensor:
    """‖ |H| ⊙ Δ ‖² (Frobenius), float32, with Δ = scaling · B A of ``change`` and H that of ``past``.

    Of C-LoRA, arXiv:2304.06027; the absolute value makes no difference under the square. The gradient with
    respect to Δ is 2 H² ⊙ Δ. Differentiable in the factors of ``change``, once. Both matrices exist for a few
    rows at a time; the time is O(out · in · ranks).
    """
    found: Tensor = _Overlap.apply(change.A, change.B, change.scaling, past)
    return found


class _Overlap(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, A: Tensor, B: Tensor, scaling: float, past: Factors) -> Tensor:
        # A scalar has one gradient, up to a factor: it is computed while the rows are there.
        exact_A, exact_B = A.float(), B.float() * scaling
        of_A, of_B = torch.zeros_like(exact_A), torch.empty_like(exact_B)
        total = exact_A.new_zeros(())
        step = max(1, PIECE // A.shape[1])
        for start in range(0, len(B), step):
            rows = slice(start, start + step)
            H = (past.B[rows].float() @ past.A.float()).mul_(past.scaling)
            product = (exact_B[rows] @ exact_A).mul_(H)
            total += product.square().sum()
            of_change = product.mul_(H).mul_(2)
            of_B[rows] = of_change @ exact_A.T
            of_A.addmm_(exact_B[rows].T, of_change)
        ctx.save_for_backward(of_A.to(A.dtype), of_B.mul_(scaling).to(B.dtype))
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *given: Tensor) -> tuple[Tensor | None, ...]:
        of_A, of_B = ctx.saved_tensors
        return of_A * given[0], of_B * given[0], None, None
