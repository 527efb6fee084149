"""Four-bit linear layers through bitsandbytes' kernels. The only importer of bitsandbytes.

Only the functional kernels are used, never ``bitsandbytes.nn.Linear4bit``: on CPUs with AVX512-BF16 that
layer repacks its weight in place at the first evaluation, after which its dequantization is wrong and its
backward pass loses the base's gradient (bitsandbytes 0.50).
"""

from __future__ import annotations

import ctypes
import logging
import math
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from edgelora.layers.frozen import PIECE, FrozenLinear, QuantizedLinear
from edgelora.layers.stored import Shapes, require_shapes
from edgelora.options import FourBitOptions

# On CPUs with AVX512-BF16 the import warns that a kernel of the layer we do not use could not be downloaded.
logging.getLogger("bitsandbytes.backends.cpu.ops").addFilter(lambda record: "gemm_4bit" not in record.msg)

from bitsandbytes import functional as kernels  # noqa: E402  after the filter above
from bitsandbytes import optim  # noqa: E402
from bitsandbytes.cextension import lib  # noqa: E402

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
        if out is None:
            shape = (self.out_features, self.in_features)
            out = torch.empty(shape, dtype=dtype or self.dtype, device=self.codes.device)
        self.decode(0, out.view(-1))
        return out

    def pieces(self, dtype: torch.dtype, size: int = PIECE) -> Iterator[tuple[slice, Tensor]]:
        """W in blocks of rows; see `FrozenLinear.pieces`. Only rows of a piece are dequantized."""
        if type(self).dequantize is not FourBitLinear.dequantize:
            yield from super().pieces(dtype, size)  # a subclass computes W in its own way
            return
        # A piece starts where a block of codes does.
        unit = self.block_size // math.gcd(self.in_features, self.block_size)
        step = max(1, size // (unit * self.in_features)) * unit
        for start in range(0, self.out_features, step):
            rows = slice(start, min(start + step, self.out_features))
            piece = torch.empty(rows.stop - start, self.in_features, dtype=dtype, device=self.codes.device)
            self.decode(start * self.in_features, piece.view(-1))
            yield rows, piece

    def decode(self, start: int, out: Tensor) -> None:
        """Fill ``out`` with consecutive weights, row-major.

        Args:
            start: The first of them, a multiple of the block size.
            out: Contiguous (weights,), float32, bfloat16 or float16.
        """
        first, last = start // self.block_size, -(-(start + len(out)) // self.block_size)
        codes = self.codes.view(-1)[start // 2 : (start + len(out) + 1) // 2]
        dequantize_four_bit(codes, self._absmax(first, last), out, kind=self.kind, block_size=self.block_size)

    def _absmax(self, first: int = 0, last: int | None = None) -> Tensor:
        """The scales of some blocks, float32; of all when left out."""
        if self.absmax.dtype == torch.float32:
            return self.absmax[first:last]
        # From where a block of scales starts.
        skipped = first % STATISTICS_BLOCK
        scale = self.absmax_scale[first // STATISTICS_BLOCK :]
        state = kernels.QuantState(
            scale, code=self.absmax_code, blocksize=STATISTICS_BLOCK, dtype=torch.float32
        )
        absmax = kernels.dequantize_blockwise(self.absmax[first - skipped : last], state)
        return absmax.add_(self.absmax_offset)[skipped:]


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
        """The layer as it was quantized.

        Raises:
            ModelError: A tensor is missing, left over, or of another shape or dtype.
        """
        require_shapes(tensors, self.shapes(shape[0] * shape[1]), name)
        return self._layer(tensors, shape, dtype)

    def codes(self, weight: Tensor) -> dict[str, Tensor]:
        """The buffers of the layer for a weight (out, in)."""
        return quantize_four_bit(
            weight,
            kind=self.kind,
            block_size=self.options.block_size,
            double=self.options.double_quantization,
        )

    def shapes(self, count: int) -> Shapes:
        """Of the buffers of a layer with so many weights."""
        blocks = -(-count // self.options.block_size)
        codes = {"codes": ((-(-count // 2), 1), torch.uint8)}
        if not self.options.double_quantization:
            return {**codes, "absmax": ((blocks,), torch.float32)}
        return {
            **codes,
            "absmax": ((blocks,), torch.uint8),
            "absmax_scale": ((-(-blocks // STATISTICS_BLOCK),), torch.float32),
            "absmax_code": ((256,), torch.float32),
            "absmax_offset": ((), torch.float32),
        }

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
def codebook(kind: str, device: torch.device) -> Tensor:
    """The 16 levels of ``kind``, float32."""
    levels: Tensor = kernels.get_4bit_type(kind, device=device)
    return levels


@cache
def dynamic_map(device: torch.device) -> Tensor:
    """The signed 8-bit codebook of bitsandbytes' dynamic quantization: 256 values, ascending, in [-1, 1]."""
    with torch.device("cpu"):  # models are built under a context that makes tensors without memory
        return kernels.create_dynamic_map(signed=True).to(device)


def quantize_four_bit(weight: Tensor, *, kind: str, block_size: int, double: bool) -> dict[str, Tensor]:
    """The buffers of a `FourBitLinear` for a weight (out, in) of a floating dtype.

    The codes are made in pieces: bitsandbytes takes 20 bytes of memory for each weight of a call on a CPU.
    """
    flat = weight.detach().reshape(-1)
    if flat.numel() % 2:
        flat = torch.cat([flat, flat.new_zeros(1)])
    codes = flat.new_empty((len(flat) // 2, 1), dtype=torch.uint8)
    absmax = flat.new_empty(-(-len(flat) // block_size), dtype=torch.float32)
    for start in range(0, len(flat), PIECE):
        piece, state = kernels.quantize_4bit(
            flat[start : start + PIECE], blocksize=block_size, compress_statistics=False, quant_type=kind
        )
        codes[start // 2 : start // 2 + len(piece)] = piece
        absmax[start // block_size : start // block_size + len(state.absmax)] = state.absmax
    if not double:
        return {"codes": codes, "absmax": absmax}
    # As bitsandbytes does it under compress_statistics, over the scales of all pieces.
    offset = absmax.mean()
    quantized, second = kernels.quantize_blockwise(absmax - offset, blocksize=STATISTICS_BLOCK)
    return {
        "codes": codes,
        "absmax": quantized,
        "absmax_scale": second.absmax,
        "absmax_code": second.code,
        "absmax_offset": offset,
    }


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
