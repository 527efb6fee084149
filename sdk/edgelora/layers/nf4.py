"""Four-bit linear layers through bitsandbytes' kernels. The only importer of bitsandbytes.

Only the functional kernels are used, never ``bitsandbytes.nn.Linear4bit``: on CPUs with AVX512-BF16 that
layer repacks its weight in place at the first evaluation, after which its dequantization is wrong and its
backward pass loses the base's gradient (bitsandbytes 0.50).
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from functools import cache
from typing import ClassVar

import torch
from torch import Tensor, nn

from edgelora.layers.frozen import FrozenLinear, QuantizedLinear
from edgelora.options import FourBitOptions

# On CPUs with AVX512-BF16 the import warns that a kernel of the layer we do not use could not be downloaded.
logging.getLogger("bitsandbytes.backends.cpu.ops").addFilter(lambda record: "gemm_4bit" not in record.msg)

from bitsandbytes import functional as kernels  # noqa: E402  after the filter above
from bitsandbytes import optim  # noqa: E402

STATISTICS_BLOCK = 256
"""Block size in which the second quantization quantizes the blocks' scales (QLoRA, section 3)."""


class FourBitLinear(QuantizedLinear):
    """A linear whose weight is NF4 or FP4 codes with one scale per block. QLoRA, arXiv:2305.14314, section 3.

    Buffers: ``codes`` uint8 (⌈out·in / 2⌉, 1), row-major, the first element of a pair in the high bits;
    ``absmax`` (blocks,), float32, or uint8 with ``absmax_scale``, ``absmax_code`` and ``absmax_offset`` under
    double quantization.

    Args:
        tensors: The buffers by name, and ``bias`` where there is one.
        shape: (out, in).
        kind: ``"nf4"`` or ``"fp4"``.
        block_size: Consecutive elements that share a scale.
        dtype: In which `dequantize` answers by default.
        compute_dtype: Of the product; None takes that of the input.
    """

    def __init__(
        self,
        tensors: Mapping[str, Tensor],
        shape: tuple[int, int],
        *,
        kind: str,
        block_size: int,
        dtype: torch.dtype,
        compute_dtype: torch.dtype | None,
    ) -> None:
        super().__init__(tensors.get("bias"), shape[1], shape[0], compute_dtype)
        self.kind = kind
        self.block_size = block_size
        self.dtype = dtype
        for name, tensor in tensors.items():
            if name != "bias":
                self.register_buffer(name, tensor)

    def dequantize(self, out: Tensor | None = None, dtype: torch.dtype | None = None) -> Tensor:
        """W as the codes give it, (out, in); see `FrozenLinear.dequantize`."""
        dtype = dtype or (self.dtype if out is None else out.dtype)
        # The kernel on the CPU is wrong for a last dimension that is no multiple of the block (bitsandbytes
        # 0.50), so it always sees one long row.
        state = kernels.QuantState(
            self._absmax(),
            torch.Size([2 * self.codes.numel()]),
            _codebook(self.kind, self.codes.device),
            self.block_size,
            self.kind,
            dtype,
        )
        flat = kernels.dequantize_4bit(self.codes, state).view(-1)
        weight = flat[: self.out_features * self.in_features].view(self.out_features, self.in_features)
        return weight if out is None else out.copy_(weight)

    def _absmax(self) -> Tensor:
        if self.absmax.dtype == torch.float32:
            return self.absmax
        state = kernels.QuantState(
            self.absmax_scale, code=self.absmax_code, blocksize=STATISTICS_BLOCK, dtype=torch.float32
        )
        return kernels.dequantize_blockwise(self.absmax, state) + self.absmax_offset


class FourBitQuantizer:
    """A quantizer to 4-bit codes; subclasses name the ``kind`` of codes, or how they are found."""

    kind: ClassVar[str] = "nf4"
    layer: ClassVar[type[FourBitLinear]] = FourBitLinear

    def __init__(self, options: FourBitOptions) -> None:
        self.options = options

    def quantize(self, linear: nn.Linear, name: str) -> FrozenLinear:
        """Codes and scales of the weight; the bias stays as it is."""
        weight = linear.weight.detach()
        tensors = self.codes(weight)
        if linear.bias is not None:
            tensors["bias"] = linear.bias.detach()
        return self._layer(tensors, (linear.out_features, linear.in_features), weight.dtype)

    def restore(
        self, tensors: Mapping[str, Tensor], name: str, shape: tuple[int, int], dtype: torch.dtype
    ) -> FrozenLinear:
        """The layer as it was quantized."""
        return self._layer(tensors, shape, dtype)

    def codes(self, weight: Tensor) -> dict[str, Tensor]:
        """The buffers of the layer for a weight (out, in)."""
        return quantize_four_bit(
            weight,
            kind=self.kind,
            block_size=self.options.block_size,
            double=self.options.double_quantization,
        )

    def _layer(
        self, tensors: Mapping[str, Tensor], shape: tuple[int, int], dtype: torch.dtype
    ) -> FourBitLinear:
        compute = self.options.compute_dtype
        return self.layer(
            tensors,
            shape,
            kind=self.kind,
            block_size=self.options.block_size,
            dtype=dtype,
            compute_dtype=None if compute == "auto" else getattr(torch, compute),
        )


# Not buffers of the layers: transformers empties what is in no file when it has loaded a model.
@cache
def _codebook(kind: str, device: torch.device) -> Tensor:
    """The 16 levels of ``kind``, float32."""
    levels: Tensor = kernels.get_4bit_type(kind, device=device)
    return levels


@cache
def dynamic_map(device: torch.device) -> Tensor:
    """The signed 8-bit codebook of bitsandbytes' dynamic quantization: 256 values, ascending, in [-1, 1]."""
    with torch.device("cpu"):  # models are built under a context that makes tensors without memory
        return kernels.create_dynamic_map(signed=True).to(device)


def quantize_four_bit(weight: Tensor, *, kind: str, block_size: int, double: bool) -> dict[str, Tensor]:
    """The buffers of a `FourBitLinear` for a weight (out, in) of a floating dtype."""
    flat = weight.detach().reshape(-1)
    if flat.numel() % 2:
        flat = torch.cat([flat, flat.new_zeros(1)])
    codes, state = kernels.quantize_4bit(
        flat.contiguous(), blocksize=block_size, compress_statistics=double, quant_type=kind
    )
    tensors = {"codes": codes, "absmax": state.absmax}
    if double:
        tensors |= {
            "absmax_scale": state.state2.absmax,
            "absmax_code": state.state2.code,
            "absmax_offset": state.offset,
        }
    return tensors


OPTIMIZERS = {
    "adamw-8bit": optim.AdamW8bit,
    "paged-adamw": optim.PagedAdamW32bit,
    "paged-adamw-8bit": optim.PagedAdamW8bit,
}
"""Optimizers with small or paged states, by the name a recipe gives them."""
