"""Four-bit quantizers."""

from __future__ import annotations

from typing import Any

from edgelora.layers.nf4 import FourBitQuantizer


class NormalFloat4(FourBitQuantizer):
    """NF4: the 16 levels are quantiles of a normal distribution. arXiv:2305.14314, section 3."""

    kind = "nf4"

    def quantization_config(self) -> dict[str, Any]:
        """The same codes by transformers and bitsandbytes, where ``block_size`` is their 64."""
        return {
            "load_in_4bit": True,
            "bnb_4bit_quant_type": self.kind,
            "bnb_4bit_use_double_quant": self.options.double_quantization,
        }


class Float4(NormalFloat4):
    """FP4: the 16 levels are those of a 4-bit floating-point number."""

    kind = "fp4"
