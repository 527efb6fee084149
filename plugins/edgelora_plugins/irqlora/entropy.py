"""The search for offsets at which a block's NF4 codes hold the most information."""

from __future__ import annotations

import math
from functools import cache

import torch
from torch import Tensor

MIDPOINTS = (
    -0.8480964004993439, -0.6106329262256622, -0.4599952697753906, -0.33967943489551544,
    -0.23460740596055984, -0.13791173323988914, -0.045525018125772475, 0.03979014977812767,
    0.1202552504837513, 0.2035212516784668, 0.2920137718319893, 0.3893125355243683,
    0.5016634166240692, 0.6427869200706482, 0.8614784181118011,
)  # fmt: skip
"""Between neighbouring levels of NF4: a scaled weight above one gets the higher code."""
BLOCK_DEVIATION = 0.5410872372
"""Standard deviation of a normal block scaled to ±1, by which NF4 places its levels: 1 / Φ⁻¹(0.9677083)."""
BLOCKS_AT_A_TIME = 1024
_UNITS = 1 << 16
"""Entropies are compared as whole multiples of 1 / _UNITS bit, so that equal ones are equal."""


def best_offsets(blocks: Tensor, *, search_range: float, search_steps: int) -> Tensor:
    """The offset τ of each block whose NF4(w − τ) codes have the highest entropy. IR-QLoRA, equations 5 to 7.

    Candidates are the median plus −λσ to λσ times the largest distance from it, in 2n + 1 steps; of equal
    ones the first is taken. Each block is sorted once: how many weights get which code then follows from
    where the 15 thresholds fall.

    Args:
        blocks: Weights, float32 (blocks, size).
        search_range: λ.
        search_steps: n.

    Returns:
        τ, float32 (blocks,).
    """
    reach = search_range * BLOCK_DEVIATION
    steps = torch.linspace(-reach, reach, 2 * search_steps + 1, device=blocks.device)
    chosen = [_search(some, steps) for some in blocks.split(BLOCKS_AT_A_TIME)]
    return torch.cat(chosen) if chosen else blocks.new_zeros(0)


def code_entropy(codes: Tensor) -> Tensor:
    """Entropy in bits of each block's codes, float32 (blocks,), for int64 codes 0 to 15 (blocks, size)."""
    counts = torch.zeros(len(codes), 16, dtype=torch.int64, device=codes.device)
    counts.scatter_add_(1, codes, torch.ones_like(codes))
    share = counts.float() / codes.shape[1]
    return -torch.xlogy(share, share).sum(dim=1) / math.log(2)


def _search(blocks: Tensor, steps: Tensor) -> Tensor:
    ordered = blocks.sort(dim=1).values
    size = blocks.shape[1]
    smallest, median, largest = ordered[:, 0], ordered[:, (size - 1) // 2], ordered[:, -1]
    reach = torch.maximum(largest - median, median - smallest)
    offsets = median[:, None] + reach[:, None] * steps
    scales = torch.maximum(largest[:, None] - offsets, offsets - smallest[:, None])
    midpoints = torch.tensor(MIDPOINTS, device=blocks.device)
    # Thresholds (blocks, 15, candidates): neighbours in memory are near each other, which searches faster.
    thresholds = offsets[:, None] + scales[:, None] * midpoints[:, None]
    below = torch.searchsorted(ordered, thresholds.flatten(1), right=True, out_int32=True)
    below = below.view(thresholds.shape)
    none = torch.zeros_like(below[:, :1])
    counts = torch.diff(below, dim=1, prepend=none, append=none + size)
    # Entropy is log₂ size − Σ c log₂ c / size: the highest has the smallest sum.
    terms = _count_terms(size, blocks.device).index_select(0, counts.view(-1)).view(counts.shape)
    number = len(steps)
    first_best = (terms.sum(dim=1) * number + torch.arange(number, device=blocks.device)).argmin(dim=1)
    return offsets.gather(1, first_best[:, None])[:, 0]


@cache
def _count_terms(size: int, device: torch.device) -> Tensor:
    """C log₂ c for c = 0 … size, in units, int64."""
    terms = [0] + [round(count * math.log2(count) * _UNITS) for count in range(1, size + 1)]
    return torch.tensor(terms, dtype=torch.int64, device=device)
