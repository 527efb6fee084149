"""Offsets that keep the most information, and the layer that stores them."""

import copy
import math

import pytest
import torch
from bitsandbytes import functional as kernels
from torch import nn

from edgelora.layers.nf4 import quantize_four_bit
from edgelora_plugins.irqlora.entropy import (
    BLOCK_DEVIATION,
    MIDPOINTS,
    best_offsets,
    code_entropy,
)
from edgelora_plugins.irqlora.options import CalibrationOptions
from edgelora_plugins.irqlora.quantizer import CalibratedNormalFloat4

SEARCH = {"search_range": 0.1, "search_steps": 20}


def blocks_of(count=64, size=64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, size, generator=generator) * 0.02 + 0.004


def codes_of(blocks, tau):
    moved = blocks - tau[:, None]
    codes = quantize_four_bit(moved, kind="nf4", block_size=blocks.shape[1], double=False)["codes"].view(-1)
    return torch.stack([codes >> 4, codes & 15], dim=1).view(blocks.shape).long()


def entropy_by_counting(blocks, tau):
    """Of each block's codes, from the definition."""
    found = []
    for row in codes_of(blocks, tau).tolist():
        shares = [row.count(code) / len(row) for code in set(row)]
        found.append(-sum(share * math.log2(share) for share in shares))
    return torch.tensor(found)


def published_search(blocks, search_range, search_steps):
    """One candidate after the other, the first of equal ones kept."""
    median = blocks.median(dim=1).values
    reach = (blocks - median[:, None]).abs().amax(dim=1)
    limit = search_range * BLOCK_DEVIATION
    best, chosen = torch.full_like(median, -1), median
    for factor in torch.linspace(-limit, limit, 2 * search_steps + 1):
        entropy = entropy_by_counting(blocks, median + factor * reach)
        chosen = torch.where(entropy > best + 1e-6, median + factor * reach, chosen)
        best = torch.maximum(best, entropy)
    return chosen, best


def quantize(weight, bias=False, **options):
    linear = nn.Linear(weight.shape[1], weight.shape[0], bias=bias)
    linear.weight.data = weight
    return CalibratedNormalFloat4(CalibrationOptions(**options)).quantize(linear, "q")


def test_codes_change_at_the_midpoints_of_the_levels():
    levels = kernels.get_4bit_type("nf4", device="cpu").sort().values
    torch.testing.assert_close(torch.tensor(MIDPOINTS), (levels[1:] + levels[:-1]) / 2)


def test_the_offsets_are_those_of_the_published_search():
    blocks = blocks_of()
    chosen, best = published_search(blocks, **SEARCH)
    found = best_offsets(blocks, **SEARCH)
    torch.testing.assert_close(entropy_by_counting(blocks, found), best)
    torch.testing.assert_close(found, chosen)


def test_no_block_knows_less_than_at_its_median_and_most_know_more():
    blocks = blocks_of(512)
    at_median = code_entropy(codes_of(blocks, blocks.median(dim=1).values))
    found = code_entropy(codes_of(blocks, best_offsets(blocks, search_range=0.1, search_steps=100)))
    plain = code_entropy(codes_of(blocks, torch.zeros(512)))
    assert (found >= at_median - 1e-6).all() and found.max() <= 4
    assert float((found - plain).mean()) > 0.08


def test_moving_and_scaling_a_block_moves_and_scales_its_offset_only():
    blocks = blocks_of()
    tau = best_offsets(blocks, **SEARCH)
    moved, scaled = best_offsets(blocks + 0.5, **SEARCH), best_offsets(blocks * 4, **SEARCH)
    torch.testing.assert_close(scaled, tau * 4)
    torch.testing.assert_close(moved, tau + 0.5, rtol=0, atol=1e-3)
    assert torch.equal(codes_of(blocks * 4, scaled), codes_of(blocks, tau))


def test_blocks_are_searched_one_by_one():
    blocks = blocks_of()
    order = torch.randperm(len(blocks))
    assert torch.equal(best_offsets(blocks[order], **SEARCH), best_offsets(blocks, **SEARCH)[order])


@pytest.mark.parametrize("shape", [(128, 128), (32, 48), (64, 96), (30, 100), (7, 9)])
def test_any_shape_is_restored_and_computes_what_it_dequantizes_to(shape):
    torch.manual_seed(0)
    layer = quantize(torch.randn(shape) * 0.02 + 0.004, bias=True)
    weight, x = layer.dequantize(), torch.randn(3, shape[1])
    torch.testing.assert_close(layer.train()(x), x @ weight.T + layer.bias)
    assert torch.equal(layer.eval()(x), layer.train()(x))
    quantizer = CalibratedNormalFloat4(CalibrationOptions())
    again = quantizer.restore(copy.deepcopy(layer.state_dict()), "q", shape)
    assert torch.equal(again.dequantize(), weight)
    out = torch.empty(shape, dtype=torch.bfloat16)
    assert layer.dequantize(out=out) is out and torch.equal(out, weight.bfloat16())
    assert layer.dequantize(dtype=torch.float64).dtype == torch.float64


def test_it_is_as_near_to_the_weight_as_plain_nf4_and_finds_the_same_twice():
    torch.manual_seed(0)
    weight = torch.randn(128, 256) * 0.02
    layer = quantize(weight)
    assert float((layer.dequantize() - weight).norm() / weight.norm()) < 0.095
    assert torch.equal(quantize(weight).dequantize(), layer.dequantize())


def test_offsets_lose_little_in_eight_bits():
    torch.manual_seed(0)
    weight = torch.randn(256, 128) * 0.02 + 0.008
    layer = quantize(weight)
    exact = best_offsets(weight.view(-1, 64), search_range=0.1, search_steps=100)
    assert len(layer.tau_scale) == 2 and (layer.tau() - exact).abs().max() <= 0.01 * exact.abs().max()


@pytest.mark.parametrize("value", [0.0, 0.3])
def test_equal_weights_stay_finite(value):
    weight = torch.full((64, 64), value)
    torch.testing.assert_close(quantize(weight).dequantize(), weight, rtol=0.01, atol=1e-6)


def test_a_weight_of_16_bits_gives_the_codes_of_its_values():
    weight = (torch.randn(64, 64) * 0.02).bfloat16()
    assert torch.equal(quantize(weight).codes, quantize(weight.float()).codes)
    assert quantize(weight).dequantize().dtype == torch.bfloat16
