"""The search for offsets at which a block's codes hold the most information."""

from __future__ import annotations

import math
from functools import cache

import torch
from torch import Tensor

BLOCK_DEVIATION = 0.5410872372
"""Standard deviation of a normal block scaled to ±1, by which NormalFloat places its levels, whatever their
number: 1 / Φ⁻¹(0.9677083)."""
BLOCKS_AT_A_TIME = 1024
_UNITS = 1 << 16
"""Entropies are compared as whole multiples of 1 / _UNITS bit, so that equal ones are equal."""


def best_offsets(blocks: Tensor, midpoints: Tensor, *, search_range: float, search_steps: int) -> Tensor:
    """The offset τ of each block whose codes of w − τ have the highest entropy. IR-QLoRA, equations 5 to 7.

    Candidates are the median plus −λσ to λσ times the largest distance from it, in 2n + 1 steps; of equal
    ones the first is taken. Each block is sorted once: how many weights get which code then follows from
    where the thresholds fall.

    Args:
        blocks: Weights, float32 (blocks, size).
        midpoints: Above which a scaled weight gets the higher code, ascending, float32 (levels − 1,).
        search_range: λ.
        search_steps: n.

    Returns:
        τ, float32 (blocks,).
    """
    reach = search_range * BLOCK_DEVIATION
    steps = torch.linspace(-reach, reach, 2 * search_steps + 1, device=blocks.device)
    chosen = [_search(some, midpoints, steps) for some in blocks.split(BLOCKS_AT_A_TIME)]
    return torch.cat(chosen) if chosen else blocks.new_zeros(0)


def code_entropy(codes: Tensor, levels: int) -> Tensor:
    """Entropy in bits of each block's codes, float32 (blocks,).

    Args:
        codes: int64 (blocks, size).
        levels: One more than the highest code there can be.
    """
    counts = torch.zeros(len(codes), levels, dtype=torch.int64, device=codes.device)
    counts.scatter_add_(1, codes, torch.ones_like(codes))
    share = counts.float() / codes.shape[1]
    return -torch.xlogy(share, share).sum(dim=1) / math.log(2)


def _search(blocks: Tensor, midpoints: Tensor, steps: Tensor) -> Tensor:
    ordered = blocks.sort(dim=1).values
    size = blocks.shape[1]
    smallest, median, largest = ordered[:, 0], ordered[:, (size - 1) // 2], ordered[:, -1]
    reach = torch.maximum(largest - median, median - smallest)
    offsets = median[:, None] + reach[:, None] * steps
    scales = torch.maximum(largest[:, None] - offsets, offsets - smallest[:, None])
    # (blocks, levels − 1, candidates): neighbours in memory are near each other, which searches faster.
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
