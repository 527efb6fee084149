"""Linear layers whose weight is codes of a few bits, with one scale for each block of consecutive weights."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from edgelora.layers.authoring import WeightQuantizer
from edgelora.layers.bit_stream import unpack
from edgelora.layers.frozen import PIECE, FrozenLinear, QuantizedLinear
from edgelora.layers.nf4 import NF4, STATISTICS_BLOCK, dequantize_scales, quantize_scales
from edgelora.layers.stored import Shapes
from edgelora.options import BlockwiseOptions


class CodeFormat(Protocol):
    """A data type of few bits: which number each code stands for, in units of its block's scale.

    Codes are stored as one stream of bits, row-major, the first code in the high bits of the first byte.
    """

    @property
    def name(self) -> str:
        """As the field calls it: ``"nf4"``."""
        ...

    @property
    def bits(self) -> int:
        """Of a code, 1 to 8."""
        ...

    def levels(self, device: torch.device) -> Tensor:
        """The numbers by code, float32 (2^bits,), in [-1, 1]."""
        ...

    def quantize(self, flat: Tensor, block_size: int) -> tuple[Tensor, Tensor]:
        """Codes and scales of weights (n,) of a floating dtype.

        Returns:
            The codes, uint8 (⌈n · bits / 8⌉,), and the largest magnitude of each block, float32 (blocks,).
        """
        ...

    def dequantize(self, codes: Tensor, absmax: Tensor, out: Tensor, block_size: int) -> None:
        """Fill ``out`` (n,) with the level of each code times its scale; nothing on the meta device."""
        ...


class BlockwiseLinear(QuantizedLinear):
    """A linear whose weight is codes with one scale per block. QLoRA, arXiv:2305.14314, section 3.

    Buffers: ``codes`` uint8 (⌈out · in · bits / 8⌉, 1), as `CodeFormat` stores them; ``absmax`` (blocks,),
    float32, or uint8 with ``absmax_scale``, ``absmax_code`` and ``absmax_offset`` under double quantization.

    Args:
        tensors: The buffers by name, and ``bias`` where there is one.
        shape: (out, in).
        format: Of the codes.
        block_size: Consecutive elements that share a scale.
        dtype: In which `dequantize` answers by default.
        compute_dtype: Of the product; None takes that of the input.
    """

    codes: Tensor
    absmax: Tensor

    def __init__(
        self,
        tensors: Mapping[str, Tensor],
        shape: tuple[int, int],
        *,
        format: CodeFormat,
        block_size: int,
        dtype: torch.dtype,
        compute_dtype: torch.dtype | None,
    ) -> None:
        super().__init__(tensors.get("bias"), shape[1], shape[0], compute_dtype)
        self.format = format
        self.block_size = block_size
        self.dtype = dtype
        for name, tensor in tensors.items():
            if name != "bias":
                self.register_buffer(name, tensor)

    def dequantize(self, out: Tensor | None = None, dtype: torch.dtype | None = None) -> Tensor:
        """W as the codes give it, (out, in); see `FrozenLinear.dequantize`."""
        if out is None:
            shape = (self.out_features, self.in_features)
            out = torch.empty(shape, dtype=dtype or self.dtype, device=self.codes.device)
        self.decode(0, out.view(-1))
        return out

    def pieces(self, dtype: torch.dtype, size: int = PIECE) -> Iterator[tuple[slice, Tensor]]:
        """W in blocks of rows; see `FrozenLinear.pieces`. Only rows of a piece are dequantized."""
        if type(self).dequantize is not BlockwiseLinear.dequantize:
            yield from super().pieces(dtype, size)  # a subclass computes W in its own way
            return
        # A piece starts where a block of codes does.
        unit = self.block_size // math.gcd(self.in_features, self.block_size)
        step = max(1, size // (unit * self.in_features)) * unit
        for start in range(0, self.out_features, step):
            rows = slice(start, min(start + step, self.out_features))
            piece = torch.empty(rows.stop - start, self.in_features, dtype=dtype, device=self.codes.device)
            self.decode(start * self.in_features, piece.view(-1))
            yield rows, piece

    def decode(self, start: int, out: Tensor) -> None:
        """Fill ``out`` with consecutive weights, row-major.

        Args:
            start: The first of them, a multiple of the block size.
            out: Contiguous (weights,), float32, bfloat16 or float16.
        """
        first, last = start // self.block_size, -(-(start + len(out)) // self.block_size)
        self.format.dequantize(self._stream(start, len(out)), self.scales(first, last), out, self.block_size)

    def scales(self, first: int = 0, last: int | None = None) -> Tensor:
        """The largest magnitude in each of some blocks, float32; of all when left out."""
        if self.absmax.dtype == torch.float32:
            return self.absmax[first:last]
        # From where a block of scales starts.
        skipped = first % STATISTICS_BLOCK
        scale = self.absmax_scale[first // STATISTICS_BLOCK :]
        codes = self.absmax[first - skipped : last]
        return dequantize_scales(codes, scale, self.absmax_code, self.absmax_offset)[skipped:]

    def whole_blocks(self) -> Iterator[Tensor]:
        """The codes of some blocks at a time, int64 (blocks, block size); a short last block is left out."""
        whole = self.in_features * self.out_features // self.block_size * self.block_size
        for start in range(0, whole, PIECE):
            count = min(PIECE, whole - start)
            yield unpack(self._stream(start, count), self.format.bits)[:count].view(-1, self.block_size)

    def _stream(self, start: int, count: int) -> Tensor:
        """The bytes of consecutive codes; ``start`` is a multiple of the block size, which fills bytes."""
        bits = self.format.bits
        return self.codes.view(-1)[start * bits // 8 : -(-(start + count) * bits // 8)]


class BlockwiseQuantizer(WeightQuantizer):
    """A quantizer to codes in blocks; subclasses name the ``format`` of the codes, or how they are found."""

    format: ClassVar[CodeFormat] = NF4
    layer: ClassVar[type[BlockwiseLinear]] = BlockwiseLinear
    options: BlockwiseOptions

    def codes(self, weight: Tensor) -> dict[str, Tensor]:
        """The buffers of the layer for a weight (out, in)."""
        options = self.options
        return quantize_blocks(
            weight, self.format, block_size=options.block_size, double=options.double_quantization
        )

    def kept(self, shape: tuple[int, int]) -> Shapes:
        """Of the buffers of a layer of this shape."""
        return self.shapes(shape[0] * shape[1])

    def shapes(self, count: int) -> Shapes:
        """Of the buffers of a layer with so many weights."""
        blocks = -(-count // self.options.block_size)
        codes = {"codes": ((-(-count * self.format.bits // 8), 1), torch.uint8)}
        if not self.options.double_quantization:
            return {**codes, "absmax": ((blocks,), torch.float32)}
        return {
            **codes,
            "absmax": ((blocks,), torch.uint8),
            "absmax_scale": ((-(-blocks // STATISTICS_BLOCK),), torch.float32),
            "absmax_code": ((256,), torch.float32),
            "absmax_offset": ((), torch.float32),
        }

    def layer_of(
        self, tensors: Mapping[str, Tensor], shape: tuple[int, int], dtype: torch.dtype
    ) -> FrozenLinear:
        """A layer of the quantizer's kind."""
        return self.layer(
            tensors,
            shape,
            format=self.format,
            block_size=self.options.block_size,
            dtype=dtype,
            compute_dtype=self.compute_dtype,
        )


def quantize_blocks(
    weight: Tensor, format: CodeFormat, *, block_size: int, double: bool
) -> dict[str, Tensor]:
    """The buffers of a `BlockwiseLinear` for a weight (out, in) of a floating dtype.

    Args:
        weight: Read row by row.
        format: Of the codes.
        block_size: Consecutive weights that share a scale.
        double: Quantize the scales as well.
    """
    codes, absmax = format.quantize(weight.detach().reshape(-1), block_size)
    return {"codes": codes[:, None], **(quantize_scales(absmax) if double else {"absmax": absmax})}
