"""Layers whose weights stay in a mapped file, in the dtype they are stored in."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from edgelora.layers.embedding import FrozenEmbedding
from edgelora.layers.frozen import PIECE, FrozenLinear, compute_again
from edgelora.layers.scratch import scratch

CHUNK_BYTES = 64 * 1024 * 1024
"""Of the rows of a `MappedLinear` that are in memory at the same time, in the dtype computed in."""


class Pages(Protocol):
    """The memory behind some mapped tensors."""

    def ahead(self) -> None:
        """Have it read in the background."""
        ...

    def release(self) -> None:
        """Give it back."""
        ...


PagesOf = Callable[[Iterable[Tensor]], Pages]
"""The pages of some tensors."""


class MappedLinear(FrozenLinear):
    """A `FrozenLinear` that reads W some rows at a time, and keeps none of them for the backward pass.

    The product and its gradient are computed in chunks of output rows. Each chunk is converted, and copied to
    the device of the input, where it is not what it should be.

    Args:
        weight: (out, in), of a floating dtype, on the CPU; never written to, moved or converted.
        bias: (out,) or None.
        dtype: What W would be converted to were it in memory: all that is computed with W is computed with
            its values rounded to this.
        pages_of: Tells the memory of a chunk, so that the next one is read ahead and each is given back after
            use; None leaves all of W in memory once it was read.
        chunk_rows: Rows of a chunk; by default as many as `CHUNK_BYTES` hold in float32, or all of them where
            nothing is given back or converted.
    """

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor | None = None,
        *,
        dtype: torch.dtype,
        pages_of: PagesOf | None = None,
        chunk_rows: int | None = None,
    ) -> None:
        super().__init__(weight, bias, weight.shape[1], weight.shape[0])
        self.dtype = dtype
        self.chunk_rows = chunk_rows or max(1, CHUNK_BYTES // (4 * weight.shape[1]))
        self.chunk_pages: list[Pages] = []
        if pages_of is not None:
            self.pages = pages_of([weight])
            self.chunk_pages = [pages_of([rows]) for rows in weight.split(self.chunk_rows)]

    def forward(self, input: Tensor) -> Tensor:
        """(..., in) -> (..., out), in the dtype of the input."""
        product: Tensor = _ChunkedProduct.apply(input, self)
        return product

    def dequantize(self, out: Tensor | None = None, dtype: torch.dtype | None = None) -> Tensor:
        """W, (out, in), rounded to the layer's dtype; see `FrozenLinear.dequantize`."""
        weight = self.weight.detach()
        if out is None:
            return weight.to(self.dtype).to(dtype or self.dtype)
        for rows, piece in self.pieces(out.dtype):
            out[rows] = piece
        return out

    def borrow(self, dtype: torch.dtype) -> Tensor:
        """W in ``dtype``; see `FrozenLinear.borrow`."""
        if self.weight.dtype == self.dtype == dtype:
            return self.weight.detach()
        return self.dequantize(out=scratch(self.weight.shape, dtype, self.weight.device))

    def pieces(self, dtype: torch.dtype, size: int = PIECE) -> Iterator[tuple[slice, Tensor]]:
        """W in blocks of rows; see `FrozenLinear.pieces`."""
        weight, step = self.weight.detach(), max(1, size // self.in_features)
        for start in range(0, self.out_features, step):
            rows = slice(start, start + step)
            yield rows, weight[rows].to(self.dtype).to(dtype)

    def input_gradient(self, gradient: Tensor) -> Tensor:
        """Chunk by chunk; see `FrozenLinear.input_gradient`."""
        # Summed up in float32: rounding after each chunk would add up.
        total: Tensor | None = None
        for start, stop, rows in self.chunks(gradient):
            part = gradient[..., start:stop] @ rows
            if len(rows) == self.out_features:
                return part
            total = part.float() if total is None else total.add_(part)
        assert total is not None
        return total.to(gradient.dtype)

    def chunks(self, like: Tensor) -> Iterator[tuple[int, int, Tensor]]:
        """First row, last row and W's rows in between, in the dtype and on the device of ``like``.

        A chunk is valid until the next one is asked for.
        """
        weight = self.weight.detach()
        as_it_is = weight.dtype == self.dtype == like.dtype and weight.device == like.device
        rows = self.out_features if as_it_is and not self.chunk_pages else self.chunk_rows
        for number, start in enumerate(range(0, self.out_features, rows)):
            stop = min(start + rows, self.out_features)
            if number + 1 < len(self.chunk_pages):
                self.chunk_pages[number + 1].ahead()
            try:
                yield start, stop, weight[start:stop].to(like.device, self.dtype).to(like.dtype)
            finally:  # also of the last one, after which nobody may ask for another
                if self.chunk_pages:
                    self.chunk_pages[number].release()


class _ChunkedProduct(torch.autograd.Function):
    """x Wᵀ + b that remembers the layer instead of W."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: MappedLinear) -> Tensor:
        ctx.layer = layer
        ctx.save_for_backward(x.new_empty(0))  # see `compute_again`
        bias = None if layer.bias is None else layer.bias.to(device=x.device, dtype=x.dtype)
        product = x.new_empty(*x.shape[:-1], layer.out_features)
        for start, stop, rows in layer.chunks(x):
            part = functional.linear(x, rows, None if bias is None else bias[start:stop])
            if len(rows) == layer.out_features:
                return part
            product[..., start:stop] = part
        return product

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        compute_again(ctx)
        return ctx.layer.input_gradient(gradients[0]), None


class MappedEmbedding(FrozenEmbedding):
    """An embedding that reads the rows it is asked for, and converts only those.

    Args:
        weight: (tokens, width), on the CPU; never written to, moved or converted.
        padding_idx: As in `torch.nn.Embedding`.
        dtype: Of the rows it gives.
        pages_of: Tells the memory of the rows, which is given back after each lookup; None keeps it.
    """

    def __init__(
        self,
        weight: Tensor,
        padding_idx: int | None = None,
        *,
        dtype: torch.dtype,
        pages_of: PagesOf | None = None,
    ) -> None:
        super().__init__(weight, padding_idx)
        self.dtype = dtype
        self.pages = None if pages_of is None else pages_of([weight])

    def forward(self, input: Tensor) -> Tensor:
        """int64 (...) -> (..., width), on the device of the input."""
        rows = functional.embedding(input.to(self.weight.device), self.weight)
        if self.pages is not None:
            self.pages.release()
        return rows.to(device=input.device, dtype=self.dtype)
