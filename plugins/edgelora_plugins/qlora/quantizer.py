"""Four-bit quantizers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from edgelora.layers.blockwise import BlockwiseLinear, BlockwiseQuantizer
from edgelora.layers.nf4 import FP4, NF4
from edgelora.layers.stock_four_bit import own_four_bit, stock_four_bit

STOCK_BLOCK_SIZE = 64


class NormalFloat4(BlockwiseQuantizer):
    """NF4: the 16 levels are quantiles of a normal distribution. arXiv:2305.14314, section 3."""

    format = NF4

    def quantization_config(self) -> dict[str, Any] | None:
        """The same codes by transformers and bitsandbytes, which know no other blocks than those of 64."""
        if self.options.block_size != STOCK_BLOCK_SIZE:
            return None
        config = {
            "load_in_4bit": True,
            "bnb_4bit_quant_type": self.format.name,
            "bnb_4bit_use_double_quant": self.options.double_quantization,
        }
        compute = self.options.compute_dtype
        return config if compute == "auto" else config | {"bnb_4bit_compute_dtype": compute}

    def stock_tensors(self, layer: BlockwiseLinear) -> dict[str, Tensor]:
        """By bitsandbytes' names."""
        return stock_four_bit(layer)

    def own_tensors(self, stock: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The buffers of a layer."""
        return own_four_bit(stock)


class Float4(NormalFloat4):
    """FP4: the 16 levels are those of a 4-bit floating-point number."""

    format = FP4
