"""A frozen linear and a low-rank product beside it as one step of the backward pass.

Written as a sum of modules, a layer keeps the scaled x Aᵀ for the backward pass, and for a moment a second
output. Here x, A and B are kept, and the output is computed in place.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from edgelora.layers.frozen import FrozenLinear, QuantizedLinear
from edgelora.protocols import Factors


def add_low_rank(base: FrozenLinear, x: Tensor, factors: Factors) -> Tensor:
    """base(x) + scaling · x Aᵀ Bᵀ, (..., in) -> (..., out), in the dtype of ``x``.

    Keeps ``x`` itself, A and B for the backward pass, which dequantizes W and computes x Aᵀ again.

    Args:
        base: One of which `is_plain` is true.
        x: (..., in).
        factors: A (rank, in) and B (out, rank), differentiable, of any floating dtype.
    """
    A, B, scaling = factors
    # What was computed for this call is kept in the dtype it is needed in; parameters are there anyway.
    A, B = (each if each.is_leaf else each.to(x.dtype) for each in (A, B))
    y: Tensor = _FusedProduct.apply(x, A, B, base, scaling)
    return y


class Onlooker:
    """A forward pre-hook of a base that changes no input, and so does not keep it from being `is_plain`."""


def is_plain(base: nn.Module) -> bool:
    """Whether the gradient of what ``base`` computes is its `input_gradient`, and nobody listens to it."""
    if not isinstance(base, FrozenLinear):
        return False
    kind = type(base)
    return (
        (
            kind.forward in (nn.Linear.forward, QuantizedLinear.forward)
            # A forward that came after the gradient was written may be another function.
            or issubclass(_definer(kind, "input_gradient"), _definer(kind, "forward"))
        )
        and "forward" not in vars(base)
        and not base._forward_hooks
        and all(isinstance(hook, Onlooker) for hook in base._forward_pre_hooks.values())
        and not (base._backward_hooks or base._backward_pre_hooks)
    )


class _FusedProduct(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, A: Tensor, B: Tensor, base: FrozenLinear, scaling: float) -> Tensor:
        ctx.save_for_backward(x, A, B)
        ctx.base, ctx.scaling = base, scaling
        y = base(x).contiguous()
        low = functional.linear(_rows(x), A.to(x.dtype)).mul_(scaling)
        _rows(y).addmm_(low, B.to(x.dtype).T)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, A, B = ctx.saved_tensors
        base, scaling, dtype = ctx.base, ctx.scaling, x.dtype
        wants_x, wants_A, wants_B, *_ = ctx.needs_input_grad
        rows, g = _rows(x), _rows(gradients[0])
        A_used = A.to(dtype)
        of_x = of_A = of_B = None
        if wants_B:
            of_B = (g.T @ functional.linear(rows, A_used).mul_(scaling)).to(B.dtype)
        of_low = (g @ B.to(dtype)).mul_(scaling)
        if wants_A:
            of_A = (of_low.T @ rows).to(A.dtype)
        if wants_x:
            of_x = base.input_gradient(g).addmm_(of_low, A_used).view(x.shape)
        return of_x, of_A, of_B, None, None


def _definer(kind: type, name: str) -> type:
    """The class whose ``name`` an object of ``kind`` has."""
    return next(each for each in kind.__mro__ if name in vars(each))


def _rows(x: Tensor) -> Tensor:
    """(..., n) as (rows, n)."""
    return x.reshape(math.prod(x.shape[:-1]), x.shape[-1])
