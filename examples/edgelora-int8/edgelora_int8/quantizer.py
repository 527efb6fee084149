from collections.abc import Mapping

import torch
from torch import Tensor, nn

from edgelora import Options
from edgelora.layers import FrozenLinear, QuantizedLinear


class Int8Linear(QuantizedLinear):
    """W ≈ codes · scale: ``codes`` int8 (out, in), ``scale`` float32 (out, 1)."""

    codes: Tensor
    scale: Tensor

    def __init__(self, codes: Tensor, scale: Tensor, bias: Tensor | None, dtype: torch.dtype) -> None:
        super().__init__(bias, codes.shape[1], codes.shape[0])
        self.dtype = dtype
        self.register_buffer("codes", codes)
        self.register_buffer("scale", scale)

    def dequantize(self, out: Tensor | None = None, dtype: torch.dtype | None = None) -> Tensor:
        weight = self.codes * self.scale
        return out.copy_(weight) if out is not None else weight.to(dtype or self.dtype)


class Int8Quantizer:
    def __init__(self, options: Options) -> None:
        self.options = options

    def quantize(self, linear: nn.Linear, name: str) -> FrozenLinear:
        weight = linear.weight.detach()
        # A row of zeros has no scale of its own; any will do.
        scale = weight.float().abs().amax(dim=1, keepdim=True).clamp_min(1e-12) / 127
        codes = (weight.float() / scale).round().to(torch.int8)
        return Int8Linear(codes, scale, None if linear.bias is None else linear.bias.detach(), weight.dtype)

    def restore(
        self, tensors: Mapping[str, Tensor], name: str, shape: tuple[int, int], dtype: torch.dtype
    ) -> FrozenLinear:
        return Int8Linear(tensors["codes"], tensors["scale"], tensors.get("bias"), dtype)
