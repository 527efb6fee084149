"""Four-bit quantizers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from edgelora.layers import FrozenLinear
from edgelora.layers.nf4 import FourBitLinear, quantize_four_bit
from edgelora_plugins.qlora.options import FourBitOptions


class NormalFloat4:
    """NF4: the 16 levels are quantiles of a normal distribution. arXiv:2305.14314, section 3."""

    kind: ClassVar[str] = "nf4"

    def __init__(self, options: FourBitOptions) -> None:
        self.options = options

    def quantize(self, linear: nn.Linear, name: str) -> FrozenLinear:
        """Codes and scales of the weight; the bias stays as it is."""
        weight = linear.weight.detach()
        tensors = quantize_four_bit(
            weight,
            kind=self.kind,
            block_size=self.options.block_size,
            double=self.options.double_quantization,
        )
        if linear.bias is not None:
            tensors["bias"] = linear.bias.detach()
        return self._layer(tensors, (linear.out_features, linear.in_features), weight.dtype)

    def quantization_config(self) -> dict[str, Any]:
        """The same codes by transformers and bitsandbytes, where ``block_size`` is their 64."""
        return {
            "load_in_4bit": True,
            "bnb_4bit_quant_type": self.kind,
            "bnb_4bit_use_double_quant": self.options.double_quantization,
        }

    def restore(self, tensors: Mapping[str, Tensor], name: str, shape: tuple[int, int]) -> FrozenLinear:
        """The layer as it was quantized."""
        return self._layer(dict(tensors), shape, torch.float32)

    def _layer(
        self, tensors: Mapping[str, Tensor], shape: tuple[int, int], dtype: torch.dtype
    ) -> FrozenLinear:
        compute = self.options.compute_dtype
        return FourBitLinear(
            tensors,
            shape,
            kind=self.kind,
            block_size=self.options.block_size,
            dtype=dtype,
            compute_dtype=None if compute == "auto" else getattr(torch, compute),
        )


class Float4(NormalFloat4):
    """FP4: the 16 levels are those of a 4-bit floating-point number."""

    kind: ClassVar[str] = "fp4"
