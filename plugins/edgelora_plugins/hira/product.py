"""x (W ⊙ B A)ᵀ without the product B A in memory.

Written as tensors, B A and W ⊙ B A are two matrices of W's size for each layer, which autograd keeps for the
backward pass. Here x, A and B are kept, and both passes go through W in blocks of rows.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from edgelora.layers import FrozenLinear


def hadamard_product(base: FrozenLinear, x: Tensor, A: Tensor, B: Tensor) -> Tensor:
    """X (W ⊙ B A)ᵀ, (..., in) -> (..., out), in the dtype of ``x``.

    B A and its product with W are computed in float32. There are no gradients of its gradients.

    Args:
        base: Its ``pieces`` give W, (out, in).
        x: (..., in).
        A: (rank, in).
        B: (out, rank).
    """
    y: Tensor = _HadamardProduct.apply(x, A, B, base)
    return y


class _HadamardProduct(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, A: Tensor, B: Tensor, base: FrozenLinear) -> Tensor:
        ctx.save_for_backward(x, A, B)
        ctx.base = base
        A, B, rows = A.float(), B.float(), x.reshape(-1, base.in_features)
        y = x.new_empty(len(rows), base.out_features)
        for some, weight in base.pieces(x.dtype):
            y[:, some] = rows @ (B[some] @ A).mul_(weight).to(x.dtype).T
        return y.view(*x.shape[:-1], base.out_features)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, own_A, own_B = ctx.saved_tensors
        A, B, rows = own_A.float(), own_B.float(), x.reshape(-1, ctx.base.in_features)
        g = gradients[0].reshape(-1, ctx.base.out_features)
        # Summed up in float32: rounding after each piece would add up.
        of_x = torch.zeros_like(rows, dtype=torch.float32) if ctx.needs_input_grad[0] else None
        of_A, of_B = torch.zeros_like(A), torch.empty_like(B)
        for some, weight in ctx.base.pieces(x.dtype):
            if of_x is not None:
                of_x += g[:, some] @ (B[some] @ A).mul_(weight).to(x.dtype)
            of_product = (g[:, some].T @ rows).float().mul_(weight)
            of_B[some] = of_product @ A.T
            of_A.addmm_(B[some].T, of_product)
        of_input = None if of_x is None else of_x.to(x.dtype).view(x.shape)
        return of_input, of_A.to(own_A.dtype), of_B.to(own_B.dtype), None
