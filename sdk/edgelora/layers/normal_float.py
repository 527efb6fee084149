"""NormalFloat of any width: codes whose levels are quantiles of the normal distribution."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from statistics import NormalDist

import torch
from torch import Tensor
from torch.nn import functional

from edgelora.layers.bit_stream import pack
from edgelora.layers.frozen import PIECE

END = 0.9677083
"""Share of a normal distribution below the largest level, at every width: NF4's, which LoftQ
(arXiv:2310.08659) keeps at 2 bits. Taken anew for fewer levels, as 0.933 and 0.854, it would put them further
out: with less information in the codes, and more error where weights have outliers."""
WIDEST = 4
"""Weights that are looked up together at most."""
SMALLEST = 1e-38
"""Below any scale that is not zero; by it a block of zeros is divided."""
DECODED_TOGETHER = 1 << 18
"""Weights whose codes are looked up at a time, so that what lies between is in the processor's cache."""


@dataclass(frozen=True, slots=True)
class NormalFloat:
    """NF2, NF3 or NF4; see `edgelora.layers.blockwise.CodeFormat`.

    At 4 bits it makes the codes and weights of bitsandbytes' NF4, more slowly.
    """

    bits: int

    @property
    def name(self) -> str:
        """``"nf2"``."""
        return f"nf{self.bits}"

    def levels(self, device: torch.device) -> Tensor:
        """Ascending; see `normal_levels`."""
        return normal_levels(self.bits, device)

    def quantize(self, flat: Tensor, block_size: int) -> tuple[Tensor, Tensor]:
        """The nearest level to each weight over its block's largest magnitude; the lower of two as near."""
        bounds = midpoints(self.levels(flat.device))
        codes = flat.new_empty(-(-len(flat) * self.bits // 8), dtype=torch.uint8)
        absmax = flat.new_empty(-(-len(flat) // block_size), dtype=torch.float32)
        for start in range(0, len(flat), PIECE):
            piece = flat[start : start + PIECE].float()
            blocks = functional.pad(piece, (0, -len(piece) % block_size)).view(-1, block_size)
            scale = blocks.abs().amax(dim=1)
            scaled = blocks * (1.0 / scale.clamp(min=SMALLEST))[:, None]
            found = torch.bucketize(scaled, bounds, out_int32=True).view(-1)[: len(piece)]
            stream = pack(found, self.bits)
            codes[start * self.bits // 8 :][: len(stream)] = stream
            absmax[start // block_size :][: len(scale)] = scale
        return codes, absmax

    def dequantize(self, codes: Tensor, absmax: Tensor, out: Tensor, block_size: int) -> None:
        """Fill ``out``; computed in float32 and rounded once.

        Raises:
            ValueError: The tensors do not fit each other.
        """
        if out.is_meta:
            return
        if len(codes) != -(-len(out) * self.bits // 8) or len(absmax) != -(-len(out) // block_size):
            raise ValueError(
                f"{len(codes)} bytes of {self.name} and {len(absmax)} scales are not those of {len(out)} "
                f"weights in blocks of {block_size}"
            )
        bytes_together, blocks_together = DECODED_TOGETHER * self.bits // 8, DECODED_TOGETHER // block_size
        pieces = zip(
            out.split(DECODED_TOGETHER),
            codes.split(bytes_together),
            absmax.split(blocks_together),
            strict=True,
        )
        for piece, stream, scale in pieces:
            ready = piece.dtype == torch.float32 and piece.storage_offset() % WIDEST == 0
            exact = piece if ready else torch.empty_like(piece, dtype=torch.float32)
            self._look_up(stream, exact)
            _scale(exact, scale, block_size)
            if exact is not piece:
                piece.copy_(exact)

    def _look_up(self, stream: Tensor, out: Tensor) -> None:
        """Fill ``out``, float32 (n,), with the levels of codes, several by one look at a table."""
        table = _levels_of_words(self.bits, out.device)
        words, each = _words(stream, self.bits), table.itemsize // out.itemsize
        whole = len(out) // each
        torch.index_select(table, 0, words[:whole], out=out[: whole * each].view(table.dtype))
        if rest := len(out) - whole * each:
            out[-rest:] = table[words[whole:]].view(out.dtype)[:rest]


NF2, NF3 = NormalFloat(2), NormalFloat(3)


@cache
def normal_levels(bits: int, device: torch.device) -> Tensor:
    """The 2^bits levels, float32, ascending from -1 to 1. QLoRA, arXiv:2305.14314, section 3.

    Quantiles of a standard normal distribution at evenly spaced shares from its middle to `END`: half of the
    levels above zero, one less below, and zero itself; divided by the largest. Computed in the precisions
    that bitsandbytes computes its 16 in, so that these are equal.
    """
    half = 2 ** (bits - 1)
    with torch.device("cpu"):  # models are built under a context that makes tensors without memory
        above, below = torch.linspace(END, 0.5, half + 1)[:-1], torch.linspace(END, 0.5, half)[:-1]
        quantile = NormalDist().inv_cdf
        found = [*(-quantile(share) for share in below.tolist()), 0.0, *map(quantile, above.tolist())]
        levels = torch.tensor(sorted(found))
        return (levels / levels[-1]).to(device)


def midpoints(levels: Tensor) -> Tensor:
    """Between neighbouring levels, float32: a scaled weight above one gets the higher code."""
    exact = levels.double()
    return ((exact[1:] + exact[:-1]) / 2).float()


@cache
def _levels_of_words(bits: int, device: torch.device) -> Tensor:
    """The levels of the codes in each word of `_words`, (words,).

    The float32 levels of a word are one element as wide as they are together: copied as rows of a matrix they
    take three times as long.
    """
    together = 12 // bits if bits == 3 else 8 // bits
    with torch.device("cpu"):
        words = torch.arange(2 ** (together * bits))
        shifts = bits * torch.arange(together - 1, -1, -1)
        codes = (words[:, None] >> shifts) & (2**bits - 1)
        levels = normal_levels(bits, torch.device("cpu"))[codes]
        wide = {2: torch.complex64, 4: torch.complex128}[together]
        return levels.view(wide).view(-1).to(device)


def _words(stream: Tensor, bits: int) -> Tensor:
    """A stream of codes cut into numbers that hold whole codes, int32: bytes, or 12 bits of 3-bit codes."""
    if bits != 3:
        return stream.int()
    first, second, third = functional.pad(stream, (0, -len(stream) % 3)).view(-1, 3).int().unbind(1)
    return torch.stack([first << 4 | second >> 4, (second & 15) << 8 | third], dim=1).view(-1)


def _scale(values: Tensor, absmax: Tensor, block_size: int) -> None:
    whole = len(values) // block_size
    values[: whole * block_size].view(-1, block_size).mul_(absmax[:whole, None])
    values[whole * block_size :].mul_(absmax[whole:])
