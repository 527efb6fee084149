"""Information in the codes of a quantized base."""

from __future__ import annotations

import torch
from torch import Tensor

from edgelora.intervals import mean_interval
from edgelora.layers.blockwise import BlockwiseLinear
from edgelora.protocols import Evaluation, Measurement
from edgelora_plugins.irqlora.entropy import code_entropy
from edgelora_plugins.irqlora.options import EntropyOptions


class CodeEntropy:
    """Mean entropy of a block's codes, in bits per code; a code's width would be all codes alike often."""

    def __init__(self, options: EntropyOptions) -> None:
        pass

    @torch.no_grad()
    def __call__(self, run: Evaluation) -> dict[str, Measurement]:
        """``"quantization.entropy"``; n counts whole blocks. Nothing where no linear has codes in blocks."""
        linears = [module for module in run.model.modules() if isinstance(module, BlockwiseLinear)]
        if not linears:
            run.tell("no linear has codes in blocks, as those of nf4, fp4 and nf2 have")
            return {}
        entropies = torch.cat([_entropies(linear) for linear in linears]).double()
        mean, deviation = float(entropies.mean()), float(entropies.std())
        low, high = mean_interval(mean, deviation, len(entropies))
        most = max(linear.format.bits for linear in linears)
        return {"quantization.entropy": Measurement(mean, len(entropies), max(low, 0.0), min(high, most))}


def _entropies(linear: BlockwiseLinear) -> Tensor:
    found = [code_entropy(blocks, 2**linear.format.bits) for blocks in linear.whole_blocks()]
    return torch.cat(found) if found else torch.zeros(0)
