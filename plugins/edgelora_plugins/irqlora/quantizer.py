"""Information calibration quantization: NormalFloat around an offset for each block."""

from __future__ import annotations

import torch
from torch import Tensor

from edgelora.layers.blockwise import BlockwiseLinear, BlockwiseQuantizer
from edgelora.layers.frozen import PIECE
from edgelora.layers.nf4 import NF4, STATISTICS_BLOCK, dynamic_map
from edgelora.layers.normal_float import NF2, NF3, midpoints
from edgelora.layers.stored import Shapes
from edgelora_plugins.irqlora.entropy import BLOCKS_AT_A_TIME, best_offsets
from edgelora_plugins.irqlora.options import CalibrationOptions


class CalibratedLinear(BlockwiseLinear):
    """A `BlockwiseLinear` of w − τ, τ being one offset per block. IR-QLoRA, section 3.2.

    The offsets are quantized as the scales are, but around zero: ``tau_codes`` uint8 (blocks,) are places in
    the signed dynamic map, ``tau_scale`` float32 (⌈blocks / 256⌉,) what its end stands for.
    """

    def decode(self, start: int, out: Tensor) -> None:
        """Fill ``out`` with consecutive weights; see `edgelora.layers.blockwise.BlockwiseLinear.decode`."""
        if out.dtype == torch.float32:
            super().decode(start, out)
            self._add_offsets(start, out)
            return
        # Codes and offset are added in float32 and rounded once, in pieces of whole blocks.
        for place, piece in zip(range(start, start + len(out), PIECE), out.split(PIECE), strict=True):
            self.decode(place, exact := torch.empty_like(piece, dtype=torch.float32))
            piece.copy_(exact)

    def tau(self, first: int = 0, last: int | None = None) -> Tensor:
        """The offset of some blocks, float32; of all when left out."""
        codes = self.tau_codes[first:last].long()
        groups = torch.arange(first, first + len(codes), device=codes.device) // STATISTICS_BLOCK
        return dynamic_map(codes.device)[codes] * self.tau_scale[groups]

    def _add_offsets(self, start: int, out: Tensor) -> None:
        size = self.block_size
        tau = self.tau(start // size, -(-(start + len(out)) // size))
        whole = len(out) // size
        out[: whole * size].view(-1, size).add_(tau[:whole, None])
        out[whole * size :].add_(tau[whole:])


class CalibratedNormalFloat4(BlockwiseQuantizer):
    """NF4 of w − τ, with τ where the block's codes have the highest entropy. IR-QLoRA, section 3.2.

    Codes are made with the exact τ; τ itself is kept in 8 bits.
    """

    format = NF4
    layer = CalibratedLinear
    options: CalibrationOptions

    def codes(self, weight: Tensor) -> dict[str, Tensor]:
        """The buffers of a `CalibratedLinear` for a weight (out, in)."""
        flat = weight.detach().reshape(-1)
        size = self.options.block_size
        whole = flat.numel() // size * size
        tau = torch.cat([self._offsets(blocks) for blocks in _blocks(flat, size)])
        moved = flat.to(torch.float32, copy=True)
        moved[:whole].view(-1, size).sub_(tau[: whole // size, None])
        if whole < flat.numel():
            moved[whole:].sub_(tau[-1])
        return {**super().codes(moved), **_quantize_offsets(tau)}

    def shapes(self, count: int) -> Shapes:
        """Of the buffers of a layer with so many weights."""
        blocks = -(-count // self.options.block_size)
        groups = -(-blocks // STATISTICS_BLOCK)
        offsets = {"tau_codes": ((blocks,), torch.uint8), "tau_scale": ((groups,), torch.float32)}
        return {**super().shapes(count), **offsets}

    def _offsets(self, blocks: Tensor) -> Tensor:
        options = self.options
        return best_offsets(
            blocks.float(),
            midpoints(self.format.levels(blocks.device)),
            search_range=options.search_range,
            search_steps=options.search_steps,
        )


class CalibratedNormalFloat3(CalibratedNormalFloat4):
    """The same with codes of 3 bits."""

    format = NF3


class CalibratedNormalFloat2(CalibratedNormalFloat4):
    """The same with codes of 2 bits."""

    format = NF2


def _blocks(flat: Tensor, size: int) -> list[Tensor]:
    """The blocks of a weight, (blocks, size), some at a time; a short last one by itself."""
    whole = flat.numel() // size * size
    blocks = list(flat[:whole].view(-1, size).split(BLOCKS_AT_A_TIME))
    return blocks if whole == flat.numel() else [*blocks, flat[None, whole:]]


def _quantize_offsets(tau: Tensor) -> dict[str, Tensor]:
    """The nearest entry of the signed dynamic map, in groups of 256 blocks, the last one possibly short."""
    scales = torch.stack([group.abs().max() for group in tau.split(STATISTICS_BLOCK)])
    each = scales.repeat_interleave(STATISTICS_BLOCK)[: len(tau)]
    levels = dynamic_map(tau.device)
    between = (levels[1:] + levels[:-1]) / 2
    codes = torch.bucketize(torch.where(each > 0, tau / each, 0.0), between)
    return {"tau_codes": codes.to(torch.uint8), "tau_scale": scales}
