"""Algorithm 1: weights replaced by the nearest vector of a codebook."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional

from edgelora.layers import FrozenLinear, QuantizedLinear
from edgelora.layers.authoring import WeightQuantizer
from edgelora.layers.bit_stream import pack, unpack
from edgelora.layers.stored import Shapes
from edgelora_plugins.yugopuspito2024.options import CodebookOptions

SAMPLED = 1 << 16
"""Vectors of a weight, evenly spaced, by which its codewords are found."""
TOGETHER = 1 << 15
"""Vectors whose distances to all codewords are in memory at the same time; their codes fill bytes."""


class CodebookLinear(QuantizedLinear):
    """A linear whose weight is vectors of a codebook: Ŵ = codebook[codes], row-major.

    Buffers: ``codes`` uint8 (⌈vectors · log₂ codewords / 8⌉,), a stream of bits, and ``codebook`` float32
    (codewords, vector size).
    """

    codes: Tensor
    codebook: Tensor

    def __init__(
        self,
        tensors: Mapping[str, Tensor],
        shape: tuple[int, int],
        *,
        dtype: torch.dtype,
        compute_dtype: torch.dtype | None,
    ) -> None:
        super().__init__(tensors.get("bias"), shape[1], shape[0], compute_dtype)
        self.dtype = dtype
        self.register_buffer("codes", tensors["codes"])
        self.register_buffer("codebook", tensors["codebook"])

    def dequantize(self, out: Tensor | None = None, dtype: torch.dtype | None = None) -> Tensor:
        """W as the codes give it, (out, in); see `edgelora.layers.FrozenLinear.dequantize`."""
        if out is None:
            shape = (self.out_features, self.in_features)
            out = torch.empty(shape, dtype=dtype or self.dtype, device=self.codes.device)
        if out.is_meta:
            return out
        bits, codebook = code_bits(self.codebook), self.codebook.to(out.dtype)
        size = codebook.shape[1]
        pieces = zip(out.view(-1).split(TOGETHER * size), self.codes.split(TOGETHER * bits // 8), strict=True)
        for piece, stream in pieces:
            vectors = codebook.index_select(0, unpack(stream, bits)[: -(-len(piece) // size)])
            piece.copy_(vectors.view(-1)[: len(piece)])
        return out


class Codebook(WeightQuantizer):
    """k-means over the vectors of a weight. Yugopuspito et al. 2024, Algorithm 1, in a reading that types.

    As printed, a codebook of L vectors of d numbers is multiplied with the input, and the L products are
    compared with vectors of d. Here, as is usual in vector quantization, each d consecutive weights (of one
    row, where d divides it) are replaced by the nearest of L vectors, which k-means finds for each linear.
    Its start is drawn with a seed that follows from the weight: the same weight gets the same codes.
    """

    options: CodebookOptions

    def codes(self, weight: Tensor) -> dict[str, Tensor]:
        """Codes and codebook of a weight (out, in)."""
        vectors = vectors_of(weight, self.options.vector_size)
        # On the CPU, where sums have an order; a GPU adds up as it comes.
        codebook = k_means(_sample(vectors).cpu(), self.options.codewords, self.options.iterations)
        codebook = codebook.to(weight.device)
        codes = [
            pack(nearest(some.float(), codebook), code_bits(codebook)) for some in vectors.split(TOGETHER)
        ]
        return {"codes": torch.cat(codes), "codebook": codebook}

    def kept(self, shape: tuple[int, int]) -> Shapes:
        """Of the buffers of a `CodebookLinear`."""
        count, size = self.options.codewords, self.options.vector_size
        vectors = math.ceil(shape[0] * shape[1] / size)
        stream = math.ceil(vectors * (count.bit_length() - 1) / 8)
        return {"codes": ((stream,), torch.uint8), "codebook": ((count, size), torch.float32)}

    def layer_of(
        self, tensors: Mapping[str, Tensor], shape: tuple[int, int], dtype: torch.dtype
    ) -> FrozenLinear:
        """A `CodebookLinear`."""
        return CodebookLinear(tensors, shape, dtype=dtype, compute_dtype=self.compute_dtype)


def vectors_of(weight: Tensor, size: int) -> Tensor:
    """Vectors of consecutive elements of a weight, row-major, (vectors, size); zeros fill the last."""
    flat = weight.reshape(-1)
    return functional.pad(flat, (0, -len(flat) % size)).view(-1, size)


def nearest(vectors: Tensor, codebook: Tensor) -> Tensor:
    """The nearest codeword to each vector, int64 (vectors,), for float32 (vectors, d) and (codewords, d).

    The first of equally near ones: argmin ‖v − c‖² = argmin ‖c‖² / 2 − v · c.
    """
    half_norms = codebook.square().sum(dim=1) / 2
    return torch.addmm(half_norms, vectors, codebook.T, alpha=-1).argmin(dim=1)


def k_means(vectors: Tensor, count: int, iterations: int) -> Tensor:
    """A codebook (count, d) for vectors (n, d), both float32 on the CPU, by Lloyd's algorithm.

    A codeword that is nearest to none stays where it is.
    """
    codebook = _start(vectors, count)
    for _ in range(iterations):
        codes = torch.cat([nearest(some, codebook) for some in vectors.split(TOGETHER)])
        sums = torch.zeros_like(codebook).index_add_(0, codes, vectors)
        members = torch.bincount(codes, minlength=count)[:, None]
        codebook = torch.where(members > 0, sums / members.clamp(min=1), codebook)
    return codebook


def code_bits(codebook: Tensor) -> int:
    """Bits of a code: log₂ of how many codewords there are, a power of two."""
    return codebook.shape[0].bit_length() - 1


def _sample(vectors: Tensor) -> Tensor:
    """At most `SAMPLED` of them, float32."""
    return vectors[:: -(-len(vectors) // SAMPLED)].float().contiguous()


def _start(vectors: Tensor, count: int) -> Tensor:
    """The vectors that k-means starts with, all different where there are enough."""
    digest = hashlib.sha256(vectors.numpy().tobytes()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:4], "big"))
    different = vectors.unique(dim=0)
    places = torch.randperm(len(different), generator=generator, device="cpu")
    return different[places.repeat(-(-count // len(places)))[:count]]
