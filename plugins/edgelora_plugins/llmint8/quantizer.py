"""Absolute-maximum quantization to 8-bit integers, row by row."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from edgelora.layers import FrozenLinear, QuantizedLinear
from edgelora.layers.authoring import WeightQuantizer
from edgelora.layers.frozen import PIECE
from edgelora.layers.stored import Shapes
from edgelora_plugins.llmint8.options import RowInt8Options

LARGEST = 127
"""Codes lie in [-127, 127]: symmetric, so that zero stays zero."""


class RowInt8Linear(QuantizedLinear):
    """W ≈ codes · scale, by rows: ``codes`` int8 (out, in), ``scale`` float32 (out,)."""

    codes: Tensor
    scale: Tensor

    def __init__(
        self, tensors: Mapping[str, Tensor], dtype: torch.dtype, compute_dtype: torch.dtype | None
    ) -> None:
        out_features, in_features = tensors["codes"].shape
        super().__init__(tensors.get("bias"), in_features, out_features, compute_dtype)
        self.dtype = dtype
        self.register_buffer("codes", tensors["codes"])
        self.register_buffer("scale", tensors["scale"])

    def dequantize(self, out: Tensor | None = None, dtype: torch.dtype | None = None) -> Tensor:
        """W as the codes give it, (out, in); see `edgelora.layers.FrozenLinear.dequantize`."""
        if out is None:
            out = torch.empty_like(self.codes, dtype=dtype or self.dtype)
        for rows in blocks_of_rows(self.codes.shape):
            self._decode(rows, out[rows])
        return out

    def pieces(self, dtype: torch.dtype, size: int = PIECE) -> Iterator[tuple[slice, Tensor]]:
        """W in blocks of rows; see `edgelora.layers.FrozenLinear.pieces`."""
        for rows in blocks_of_rows(self.codes.shape, size):
            yield rows, self._decode(rows, torch.empty_like(self.codes[rows], dtype=dtype))

    def _decode(self, rows: slice, out: Tensor) -> Tensor:
        # The product is one of float32, rounded once.
        return torch.mul(self.codes[rows], self.scale[rows, None], out=out)


class RowInt8(WeightQuantizer):
    """Each row divided by a 127th of its largest magnitude, and rounded."""

    options: RowInt8Options

    def codes(self, weight: Tensor) -> dict[str, Tensor]:
        """Codes and scales of a weight (out, in)."""
        codes = torch.empty_like(weight, dtype=torch.int8, memory_format=torch.contiguous_format)
        scale = weight.new_empty(len(weight), dtype=torch.float32)
        for rows in blocks_of_rows(weight.shape):
            codes[rows], scale[rows] = quantize_rows(weight[rows])
        return {"codes": codes, "scale": scale}

    def kept(self, shape: tuple[int, int]) -> Shapes:
        """Of the buffers of a `RowInt8Linear`."""
        return {"codes": (shape, torch.int8), "scale": (shape[:1], torch.float32)}

    def layer_of(
        self, tensors: Mapping[str, Tensor], shape: tuple[int, int], dtype: torch.dtype
    ) -> FrozenLinear:
        """A `RowInt8Linear`."""
        return RowInt8Linear(tensors, dtype, self.compute_dtype)


def quantize_rows(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Codes, int8 (rows, in), and scales, float32 (rows,), of some rows of a weight."""
    weight = weight.float()
    scale = weight.abs().amax(dim=1) / LARGEST
    # A row of zeros has the scale 0, and any code would do.
    divisor = torch.where(scale > 0, scale, 1.0)
    return (weight / divisor[:, None]).round().clamp(-LARGEST, LARGEST).to(torch.int8), scale


def blocks_of_rows(shape: torch.Size, size: int = PIECE) -> Iterator[slice]:
    """All rows of a matrix, at most ``size`` elements or one row at a time."""
    step = max(1, size // shape[1])
    for start in range(0, shape[0], step):
        yield slice(start, min(start + step, shape[0]))
