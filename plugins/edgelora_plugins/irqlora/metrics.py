"""Information in the codes of a quantized base."""

from __future__ import annotations

import torch
from torch import Tensor

from edgelora import Options
from edgelora.intervals import mean_interval
from edgelora.layers.nf4 import FourBitLinear
from edgelora.protocols import Evaluation, Measurement
from edgelora_plugins.irqlora.entropy import code_entropy


class CodeEntropy:
    """Mean entropy of a block's 4-bit codes, in bits per code; 4 would be all codes alike often."""

    def __init__(self, options: Options) -> None:
        pass

    @torch.no_grad()
    def __call__(self, run: Evaluation) -> dict[str, Measurement]:
        """``"quantization.entropy"``; n counts whole blocks. Nothing where the base is not in four bits."""
        linears = [module for module in run.model.modules() if isinstance(module, FourBitLinear)]
        if not linears:
            return {}
        entropies = torch.cat([code_entropy(_blocks(linear)) for linear in linears]).double()
        mean, deviation = float(entropies.mean()), float(entropies.std())
        low, high = mean_interval(mean, deviation, len(entropies))
        return {"quantization.entropy": Measurement(mean, len(entropies), max(low, 0.0), min(high, 4.0))}


def _blocks(linear: FourBitLinear) -> Tensor:
    """Codes 0 to 15, int64 (blocks, size); a short last block is left out."""
    pairs = linear.codes.view(-1).long()
    codes = torch.stack([pairs >> 4, pairs & 15], dim=1).view(-1)
    count = linear.in_features * linear.out_features // linear.block_size
    return codes[: count * linear.block_size].view(count, linear.block_size)
