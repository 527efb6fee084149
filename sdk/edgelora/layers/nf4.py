"""Four-bit codes through bitsandbytes' kernels. The only importer of bitsandbytes.

Only the functional kernels are used, never ``bitsandbytes.nn.Linear4bit``: on CPUs with AVX512-BF16 that
layer repacks its weight in place at the first evaluation, after which its dequantization is wrong and its
backward pass loses the base's gradient (bitsandbytes 0.50).
"""

from __future__ import annotations

import ctypes
import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar

import torch
from torch import Tensor

from edgelora.layers.frozen import PIECE

# On CPUs with AVX512-BF16 the import warns that a kernel of the layer we do not use could not be downloaded.
logging.getLogger("bitsandbytes.backends.cpu.ops").addFilter(lambda record: "gemm_4bit" not in record.msg)

from bitsandbytes import functional as kernels  # noqa: E402  after the filter above
from bitsandbytes import optim  # noqa: E402
from bitsandbytes.cextension import lib  # noqa: E402

STATISTICS_BLOCK = 256
"""Block size in which the second quantization quantizes the blocks' scales (QLoRA, section 3)."""


@dataclass(frozen=True, slots=True)
class FourBitCodes:
    """NF4 or FP4, as bitsandbytes has them; see `edgelora.layers.blockwise.CodeFormat`."""

    name: str
    bits: ClassVar[int] = 4

    def levels(self, device: torch.device) -> Tensor:
        """The 16 numbers, by code."""
        return codebook(self.name, device)

    def quantize(self, flat: Tensor, block_size: int) -> tuple[Tensor, Tensor]:
        """Codes and scales, in pieces: bitsandbytes takes 20 bytes for each weight of a call on a CPU."""
        if flat.numel() % 2:
            flat = torch.cat([flat, flat.new_zeros(1)])
        codes = flat.new_empty(len(flat) // 2, dtype=torch.uint8)
        absmax = flat.new_empty(-(-len(flat) // block_size), dtype=torch.float32)
        for start in range(0, len(flat), PIECE):
            piece, state = kernels.quantize_4bit(
                flat[start : start + PIECE],
                blocksize=block_size,
                compress_statistics=False,
                quant_type=self.name,
            )
            codes[start // 2 : start // 2 + len(piece)] = piece.view(-1)
            absmax[start // block_size : start // block_size + len(state.absmax)] = state.absmax
        return codes, absmax

    def dequantize(self, codes: Tensor, absmax: Tensor, out: Tensor, block_size: int) -> None:
        """Fill ``out``; float32, bfloat16 and float16 are rounded once."""
        dequantize_four_bit(codes, absmax, out, kind=self.name, block_size=block_size)


NF4, FP4 = FourBitCodes("nf4"), FourBitCodes("fp4")


# Not buffers of the layers: transformers empties what is in no file when it has loaded a model.
@cache
def codebook(kind: str, device: torch.device) -> Tensor:
    """The 16 levels of ``kind``, float32."""
    levels: Tensor = kernels.get_4bit_type(kind, device=device)
    return levels


@cache
def dynamic_map(device: torch.device) -> Tensor:
    """The signed 8-bit codebook of bitsandbytes' dynamic quantization: 256 values, ascending, in [-1, 1]."""
    with torch.device("cpu"):  # models are built under a context that makes tensors without memory
        return kernels.create_dynamic_map(signed=True).to(device)


def quantize_scales(absmax: Tensor) -> dict[str, Tensor]:
    """Scales (blocks,) in 8 bits around their mean, in groups of 256, as bitsandbytes compresses statistics.

    Returns:
        ``absmax`` uint8, places in ``absmax_code`` (256,); ``absmax_scale`` (groups,), what its end stands
        for, and ``absmax_offset`` (), the mean.
    """
    offset = absmax.mean()
    quantized, second = kernels.quantize_blockwise(absmax - offset, blocksize=STATISTICS_BLOCK)
    return {
        "absmax": quantized,
        "absmax_scale": second.absmax,
        "absmax_code": second.code,
        "absmax_offset": offset,
    }


def dequantize_scales(codes: Tensor, scale: Tensor, levels: Tensor, offset: Tensor) -> Tensor:
    """Inverse of `quantize_scales` for some scales, from where a group of 256 starts."""
    state = kernels.QuantState(scale, code=levels, blocksize=STATISTICS_BLOCK, dtype=torch.float32)
    scales: Tensor = kernels.dequantize_blockwise(codes, state).add_(offset)
    return scales


def dequantize_four_bit(codes: Tensor, absmax: Tensor, out: Tensor, *, kind: str, block_size: int) -> None:
    """Fill ``out`` (n,) with the weights of ``codes`` uint8 (⌈n / 2⌉,), ``absmax`` their scales.

    Any n will do: bitsandbytes' operator on a CPU is wrong for a last dimension that is no multiple of the
    block (0.50), so it always sees one long row.

    Raises:
        ValueError: The tensors do not fit each other: the kernels would read past their ends.
    """
    if out.is_meta:
        return
    fit = len(codes) == -(-len(out) // 2) and len(absmax) == -(-len(out) // block_size)
    if not fit or (codes.dtype, absmax.dtype) != (torch.uint8, torch.float32):
        raise ValueError(
            f"{len(codes)} codes {codes.dtype} and {len(absmax)} scales {absmax.dtype} are not those of "
            f"{len(out)} weights in blocks of {block_size}"
        )
    if not codes.device == absmax.device == out.device or not out.is_contiguous():
        raise ValueError("codes, scales and a contiguous result must be on one device")
    state = _state(codes, absmax, kind=kind, block_size=block_size, dtype=out.dtype)
    pairs = len(out) % 2 == 0
    write = _writer(kind, out.dtype, block_size) if out.device.type == "cpu" else None
    if pairs and write is not None:
        write(codes, absmax, out)
    elif pairs and out.device.type == "cuda":
        kernels.dequantize_4bit(codes[:, None], state, out=out)
    else:
        out.copy_(kernels.dequantize_4bit(codes[:, None], state).view(-1)[: len(out)])


def _state(codes: Tensor, absmax: Tensor, *, kind: str, block_size: int, dtype: torch.dtype) -> Any:
    size = torch.Size([2 * len(codes)])
    return kernels.QuantState(absmax, size, codebook(kind, codes.device), block_size, kind, dtype)


@cache
def _writer(
    kind: str, dtype: torch.dtype, block_size: int
) -> Callable[[Tensor, Tensor, Tensor], None] | None:
    """What fills memory of ours on a CPU; None where bitsandbytes has nothing that does it right.

    The operator allocates its result, which costs several times what is computed in it, and its variant with
    ``out`` exists on GPUs only (0.50). So its kernel is called by name, and only after it gave what the
    operator gives.
    """
    suffix = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}.get(dtype)
    name = f"cdequantize_blockwise_cpu_{kind}_{suffix}"

    def write(codes: Tensor, absmax: Tensor, out: Tensor) -> None:
        codes, absmax = codes.contiguous(), absmax.contiguous()
        addresses = (ctypes.c_void_p(each.data_ptr()) for each in (codes, absmax, out))
        sizes = (ctypes.c_longlong(each) for each in (block_size, 1, len(out)))
        getattr(lib, name)(*addresses, *sizes)

    # Models are built under a context that makes tensors without memory.
    with torch.device("cpu"):
        codes = torch.arange(2 * block_size, dtype=torch.int64).remainder(251).to(torch.uint8)
        absmax = torch.tensor([0.5, 1.0, 2.0, 3.0])
    state = _state(codes, absmax, kind=kind, block_size=block_size, dtype=dtype)
    expected = kernels.dequantize_4bit(codes[:, None], state).view(-1)
    try:
        write(codes, absmax, found := torch.zeros_like(expected))
    # Its library was not found, or has no such kernel.
    except (AttributeError, RuntimeError):
        return None
    return write if torch.equal(found, expected) else None


OPTIMIZERS = {
    "adamw-8bit": optim.AdamW8bit,
    "paged-adamw": optim.PagedAdamW32bit,
    "paged-adamw-8bit": optim.PagedAdamW8bit,
}
"""Optimizers with small or paged states, by the name a recipe gives them."""
