"""Information calibration quantization: NF4 around an offset for each block."""

from __future__ import annotations

import torch
from torch import Tensor

from edgelora.layers.nf4 import STATISTICS_BLOCK, FourBitLinear, FourBitQuantizer, dynamic_map
from edgelora_plugins.irqlora.entropy import best_offsets
from edgelora_plugins.irqlora.options import CalibrationOptions


class CalibratedLinear(FourBitLinear):
    """A `FourBitLinear` of w − τ, τ being one offset per block. IR-QLoRA, section 3.2.

    The offsets are quantized as the scales are, but around zero: ``tau_codes`` uint8 (blocks,) are places in
    the signed dynamic map, ``tau_scale`` float32 (⌈blocks / 256⌉,) what its end stands for.
    """

    def dequantize(self, out: Tensor | None = None, dtype: torch.dtype | None = None) -> Tensor:
        """W as codes and offsets give it, (out, in); see `edgelora.layers.FrozenLinear.dequantize`."""
        weight = super().dequantize(dtype=torch.float32)
        flat, tau = weight.view(-1), self.tau()
        whole = flat.numel() // self.block_size * self.block_size
        flat[:whole].view(-1, self.block_size).add_(tau[: whole // self.block_size, None])
        if whole < flat.numel():
            flat[whole:].add_(tau[-1])
        return weight.to(dtype or self.dtype) if out is None else out.copy_(weight)

    def tau(self) -> Tensor:
        """The offset of each block, float32 (blocks,)."""
        scales = self.tau_scale.repeat_interleave(STATISTICS_BLOCK)[: len(self.tau_codes)]
        return dynamic_map(self.tau_codes.device)[self.tau_codes.long()] * scales


class CalibratedNormalFloat4(FourBitQuantizer):
    """NF4 of w − τ, with τ where the block's codes have the highest entropy. IR-QLoRA, section 3.2.

    Codes are made with the exact τ; τ itself is kept in 8 bits.
    """

    layer = CalibratedLinear
    options: CalibrationOptions

    def codes(self, weight: Tensor) -> dict[str, Tensor]:
        """The buffers of a `CalibratedLinear` for a weight (out, in)."""
        flat = weight.float().reshape(-1)
        size = self.options.block_size
        whole = flat.numel() // size * size
        tau = self._offsets(flat[:whole].view(-1, size))
        if whole < flat.numel():
            tau = torch.cat([tau, self._offsets(flat[None, whole:])])
        moved = flat - tau.repeat_interleave(size)[: flat.numel()]
        return {**super().codes(moved), **_quantize_offsets(tau)}

    def _offsets(self, blocks: Tensor) -> Tensor:
        options = self.options
        return best_offsets(blocks, search_range=options.search_range, search_steps=options.search_steps)


def _quantize_offsets(tau: Tensor) -> dict[str, Tensor]:
    """The nearest entry of the signed dynamic map, in groups of 256 blocks, the last one possibly short."""
    scales = torch.stack([group.abs().max() for group in tau.split(STATISTICS_BLOCK)])
    each = scales.repeat_interleave(STATISTICS_BLOCK)[: len(tau)]
    levels = dynamic_map(tau.device)
    between = (levels[1:] + levels[:-1]) / 2
    codes = torch.bucketize(torch.where(each > 0, tau / each, 0.0), between)
    return {"tau_codes": codes.to(torch.uint8), "tau_scale": scales}
