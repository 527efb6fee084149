"""Linear layers whose weights never change."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from edgelora.layers.scratch import scratch

if TYPE_CHECKING:
    from edgelora.layers.mapped import Pages

PIECE = 1 << 20
"""Weights in a piece of `FrozenLinear.pieces`, as far as a row is not longer."""


class FrozenLinear(nn.Linear):
    """y = x Wᵀ + b, with W and b frozen: what a quantizer makes and an adapter wraps.

    This class keeps W as it was read; quantizers subclass `QuantizedLinear`. All state is in
    ``state_dict()``, and `dequantize` is the only source of base weights for whoever needs them.

    Args:
        weight: (out, in), or None where a subclass keeps W in another form.
        bias: (out,) or None.
        in_features: Size of the last dimension of the input.
        out_features: Size of the last dimension of the output.

    Attributes:
        compute_dtype: Of the product; None takes that of the input.
    """

    compute_dtype: torch.dtype | None = None
    pages: Pages | None = None
    """Where W lies, if that is memory that can be given back."""
    moves_to: torch.device | None = None
    """Where W is copied for each forward and backward pass, if it lies elsewhere."""
    fan_in_fan_out: bool = False
    """Whether the model stores W as (in, out), as GPT-2 does. Here it is (out, in) all the same."""

    def __init__(
        self, weight: Tensor | None, bias: Tensor | None, in_features: int, out_features: int
    ) -> None:
        nn.Module.__init__(self)
        self.in_features = in_features
        self.out_features = out_features
        self.weight = _frozen(weight)
        self.bias = _frozen(bias)

    @classmethod
    def of(cls, linear: nn.Linear) -> FrozenLinear:
        """Freeze ``linear``, sharing its weight."""
        return cls(linear.weight.data, _data(linear.bias), linear.in_features, linear.out_features)

    def dequantize(self, out: Tensor | None = None, dtype: torch.dtype | None = None) -> Tensor:
        """W, (out, in), detached; written into ``out`` when given, else possibly sharing memory with W.

        Args:
            out: A contiguous tensor of W's shape to write into.
            dtype: Of the result; by default that of ``out``, else that in which W was read.
        """
        weight = self.weight.detach()
        if out is not None:
            return out.copy_(weight)
        return weight if dtype is None else weight.to(dtype)

    def borrow(self, dtype: torch.dtype) -> Tensor:
        """W in ``dtype``, (out, in), detached; to be read before the thread borrows again, never kept.

        Unlike `dequantize` it takes no new memory for W on a CPU.
        """
        if self.weight is not None and self.weight.dtype == dtype:
            return self.dequantize()
        shape = (self.out_features, self.in_features)
        return self.dequantize(out=scratch(shape, dtype, self._device))

    def pieces(self, dtype: torch.dtype, size: int = PIECE) -> Iterator[tuple[slice, Tensor]]:
        """W from top to bottom in blocks of rows, each to be read before the next, never kept.

        Args:
            dtype: Of the pieces.
            size: At most so many weights in a piece, or one row; quantized layers that cannot be read from
                the middle give larger ones.

        Yields:
            Which rows, and these, (rows, in), detached.
        """
        step = max(1, size // self.in_features)
        stored = type(self).dequantize is FrozenLinear.dequantize
        whole = self.weight.detach() if stored else self.borrow(dtype)
        for start in range(0, self.out_features, step):
            rows = slice(start, start + step)
            yield rows, whole[rows].to(dtype)

    def input_gradient(self, gradient: Tensor) -> Tensor:
        """The gradient of the input for that of the product: g W, (..., out) -> (..., in), in new memory.

        In the dtype of ``gradient``. A subclass with a forward of its own overrides it too,
        or `edgelora.layers.fused` leaves its layers alone.
        """
        dtype = self.compute_dtype or gradient.dtype
        return (gradient.to(dtype) @ self.borrow(dtype)).to(gradient.dtype)

    def release(self) -> None:
        """Give back the memory of W, where it can be had again from a file."""
        if self.pages is not None:
            self.pages.release()

    @property
    def _device(self) -> torch.device:
        return next(iter([*self.parameters(), *self.buffers()])).device


class QuantizedLinear(FrozenLinear):
    """A `FrozenLinear` that keeps W in fewer bits and computes with ``dequantize()``.

    Subclasses hold their codes in buffers and override `dequantize`; one that writes straight into ``out``
    costs no memory beyond it. The product keeps no dequantized copy for the backward pass: it dequantizes
    again, so that there are no gradients of its gradients. Training and evaluation compute the same.

    Args:
        bias: (out,) or None.
        in_features: Size of the last dimension of the input.
        out_features: Size of the last dimension of the output.
        compute_dtype: Of the product; None takes that of the input.
    """

    def __init__(
        self,
        bias: Tensor | None,
        in_features: int,
        out_features: int,
        compute_dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(None, bias, in_features, out_features)
        self.compute_dtype = compute_dtype

    def forward(self, input: Tensor) -> Tensor:
        """(..., in) -> (..., out), in the dtype of the input."""
        product: Tensor = _DequantizedProduct.apply(input.to(self.compute_dtype or input.dtype), self)
        return product.to(input.dtype)

    def dequantize(self, out: Tensor | None = None, dtype: torch.dtype | None = None) -> Tensor:
        """W as the codes give it, (out, in); see `FrozenLinear.dequantize`."""
        raise NotImplementedError

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> QuantizedLinear:
        # A change of the model's dtype must not round the quantizer's scales: buffers only change device.
        def move(tensor: Tensor) -> Tensor:
            return fn(tensor) if tensor is self.bias else tensor.to(fn(tensor.new_empty(0)).device)

        return super()._apply(move, recurse)


class _DequantizedProduct(torch.autograd.Function):
    """x Wᵀ + b that remembers the layer instead of W."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: FrozenLinear) -> Tensor:
        ctx.layer = layer
        ctx.save_for_backward(x.new_empty(0))  # see `compute_again`
        product = functional.linear(x, layer.borrow(x.dtype))
        return product if layer.bias is None else product.add_(layer.bias.to(product.dtype))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        compute_again(ctx)
        return ctx.layer.input_gradient(gradients[0]), None


def compute_again(ctx: Any) -> None:
    """Let a checkpointed block be computed again before the backward pass looks at its weights.

    A checkpoint does so when the first saved tensor is asked for, and weights that are streamed are where
    they should be only from then on. So a product that needs no saved tensor saves one without elements.
    """
    _ = ctx.saved_tensors


def _frozen(tensor: Tensor | None) -> nn.Parameter | None:
    return None if tensor is None else nn.Parameter(tensor.detach(), requires_grad=False)


def _data(parameter: nn.Parameter | None) -> Tensor | None:
    return None if parameter is None else parameter.data
