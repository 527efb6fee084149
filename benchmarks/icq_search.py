"""How long the entropy search of IR-QLoRA takes, as a ratio to quantizing the weight anew for each candidate.

The peer takes the steps of the authors' code: for each of 2n + 1 offsets the whole weight, less the offset,
is quantized by bitsandbytes, its scales and the offsets themselves to 8 bits, and each block's codes are
compared with all 16 values to count them. Runs are interleaved. Both must find the same entropy for each
block; the goal is a ratio of at least 20.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from edgelora.layers.blockwise import quantize_blocks
from edgelora.layers.nf4 import NF4, STATISTICS_BLOCK, dynamic_map
from edgelora.layers.normal_float import midpoints
from edgelora_plugins.irqlora.entropy import BLOCK_DEVIATION, best_offsets, code_entropy

BLOCK = 64
SEARCH_RANGE, SEARCH_STEPS = 0.1, 100
GOAL = 20.0


def codes_of(blocks: Tensor, tau: Tensor, *, double: bool = False) -> Tensor:
    """NF4 codes 0 to 15 of each block less its offset, uint8 (blocks, size)."""
    moved = (blocks - tau[:, None]).reshape(-1)
    pairs = quantize_blocks(moved, NF4, block_size=BLOCK, double=double)["codes"].view(-1)
    return torch.stack([pairs // 16, pairs % 16], dim=1).view(-1, BLOCK)


def entropies(blocks: Tensor, tau: Tensor) -> Tensor:
    return code_entropy(codes_of(blocks, tau).long(), 16)


def counted_entropy(codes: Tensor) -> Tensor:
    """By a comparison with every value a code can have."""
    values = torch.arange(16, dtype=torch.uint8).view(16, 1, 1)
    share = (codes.expand(16, -1, -1) == values).sum(dim=2) / BLOCK
    return -(share * share.log2()).nan_to_num().sum(dim=0)


def quantized_offsets(tau: Tensor) -> Tensor:
    """The nearest of 256 levels to each offset over the largest of its group."""
    groups = tau.view(-1, STATISTICS_BLOCK)
    scaled = (groups / groups.abs().amax(dim=1, keepdim=True)).view(-1, 1)
    return (scaled - dynamic_map(tau.device)).abs().argmin(dim=1)


def published(blocks: Tensor) -> Tensor:
    """One candidate after the other, the first of equal ones kept."""
    median = blocks.median(dim=1).values
    reach = (blocks - median[:, None]).abs().amax(dim=1)
    limit = SEARCH_RANGE * BLOCK_DEVIATION
    best_tau, best = median.clone(), torch.full_like(median, -1.0)
    for step in torch.linspace(-limit, limit, 2 * SEARCH_STEPS + 1):
        tau = median + step * reach
        found = counted_entropy(codes_of(blocks, tau, double=True))
        quantized_offsets(tau)
        better = found > best
        best, best_tau = torch.where(better, found, best), torch.where(better, tau, best_tau)
    return best_tau


def ours(blocks: Tensor) -> Tensor:
    return best_offsets(
        blocks, midpoints(NF4.levels(blocks.device)), search_range=SEARCH_RANGE, search_steps=SEARCH_STEPS
    )


def seconds(search: Callable[[Tensor], Tensor], blocks: Tensor) -> float:
    start = time.perf_counter()
    search(blocks)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--size", type=int, default=1024, help="of the square weight")
    parser.add_argument("--out", type=Path, help="write the result here as JSON too")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    blocks = (torch.randn(arguments.size, arguments.size) * 0.02 + 0.002).view(-1, BLOCK)
    # Equal counts of codes in another order may differ by rounding of the sum.
    differ = int(
        ((entropies(blocks, ours(blocks)) - entropies(blocks, published(blocks))).abs() > 1e-5).sum()
    )
    peer, mine = [], []
    for _ in range(arguments.rounds):
        peer.append(seconds(published, blocks))
        mine.append(seconds(ours, blocks))
    ratio = statistics.median(peer) / statistics.median(mine)
    result = {
        "benchmark": "icq_search",
        "blocks": len(blocks),
        "blocks_of_other_entropy": differ,
        "threads": torch.get_num_threads(),
        "peer_median_s": round(statistics.median(peer), 3),
        "edgelora_median_s": round(statistics.median(mine), 3),
        "ratio": round(ratio, 1),
        "goal": GOAL,
        "met": ratio >= GOAL and not differ,
    }
    if arguments.out:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
