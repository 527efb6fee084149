"""One pair of factors is LoRA of every rank up to its largest."""

import math

import pytest
import torch
from torch import nn

from edgelora.engine.hot_path import use_hot_path, uses_hot_path
from edgelora.errors import PlanError
from edgelora.layers import FrozenLinear, LowRankLinear, merge_into
from edgelora.layers.blockwise import BlockwiseQuantizer
from edgelora.layers.nested import NestedLowRankLinear
from edgelora.options import BlockwiseOptions
from edgelora.protocols import Site
from edgelora_plugins.qdylora.layer import DyloraAdapter
from edgelora_plugins.qdylora.options import DyloraOptions

IN, OUT, RANK, ALPHA = 64, 24, 8, 16.0


def linear():
    torch.manual_seed(0)
    return nn.Linear(IN, OUT)


def frozen():
    return FrozenLinear.of(linear())


def four_bit():
    return BlockwiseQuantizer(BlockwiseOptions()).quantize(linear(), "q")


def site(rank=RANK, alpha=ALPHA):
    return Site("q", 0, "q", rank, alpha)


def filled(base=None, rank=RANK, alpha=ALPHA):
    torch.manual_seed(1)
    layer = NestedLowRankLinear(base or frozen(), site(rank, alpha))
    nn.init.normal_(layer.lora_B)
    return layer


def lora_of_slices(layer, b):
    """Plain LoRA of rank b with the same alpha, made of the first b components."""
    plain = LowRankLinear(layer.base, site(b, layer.alpha))
    plain.lora_A.data = layer.lora_A.data[:b].clone()
    plain.lora_B.data = layer.lora_B.data[:, :b].clone()
    return plain


@pytest.mark.parametrize(("b", "scale"), [(1, 16.0), (2, 8.0), (8, 2.0), (64, 0.25)])
def test_the_scale_is_alpha_over_the_rank_in_use(b, scale):
    base = FrozenLinear.of(nn.Linear(64, 64))
    layer = NestedLowRankLinear(base, site(64, 16.0))
    layer.set_rank(b)
    A, B, scaling = layer.factors()
    assert (A.shape, B.shape, scaling) == ((b, 64), (64, b), scale)


@pytest.mark.parametrize("b", range(1, RANK + 1))
def test_it_is_the_published_form_with_a_root_on_each_factor(b):
    layer, x = filled(), torch.randn(5, IN)
    layer.set_rank(b)
    root = math.sqrt(RANK / b)
    change = (ALPHA / RANK) * (root * layer.lora_B[:, :b]) @ (root * layer.lora_A[:b])
    torch.testing.assert_close(layer(x), layer.base(x) + x @ change.T, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("make", [frozen, four_bit])
@pytest.mark.parametrize("b", range(1, RANK + 1))
def test_at_each_rank_it_is_plain_lora_of_its_first_components(make, b):
    layer, x = filled(make()), torch.randn(2, 5, IN)
    layer.set_rank(b)
    plain = lora_of_slices(layer, b)
    torch.testing.assert_close(layer(x), plain(x), rtol=1e-5, atol=1e-5)
    weight = layer.base.dequantize(dtype=torch.float32)
    torch.testing.assert_close(merge_into(layer, weight), merge_into(plain, weight), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("b", range(1, RANK + 1))
def test_components_above_the_rank_get_gradients_of_exactly_zero(b):
    layer = filled()
    layer.set_rank(b)
    layer(torch.randn(6, IN)).square().sum().backward()
    assert layer.lora_A.grad[:b].ne(0).all() and not layer.lora_A.grad[b:].any()
    assert layer.lora_B.grad[:, :b].ne(0).all() and not layer.lora_B.grad[:, b:].any()


@pytest.mark.parametrize("b", range(1, RANK + 1))
def test_frozen_only_the_last_component_learns_and_the_output_is_the_same(b):
    layer, x = filled(), torch.randn(6, IN)
    layer.set_rank(b)
    expected = layer(x)
    layer.set_rank(b, frozen=True)
    torch.testing.assert_close(layer(x), expected)
    layer(x).square().sum().backward()
    only = torch.arange(RANK) == b - 1
    assert torch.equal(layer.lora_A.grad.ne(0).all(dim=1), only)
    assert torch.equal(layer.lora_A.grad.any(dim=1), only)
    assert torch.equal(layer.lora_B.grad.any(dim=0), only)


def test_at_its_largest_rank_loss_and_gradients_are_those_of_lora():
    layer, x = filled(), torch.randn(6, IN)
    plain = lora_of_slices(layer, RANK)
    losses = [each(x).square().mean() for each in (layer, plain)]
    assert torch.equal(*losses)
    for loss in losses:
        loss.backward()
    assert torch.equal(layer.lora_A.grad, plain.lora_A.grad)
    assert torch.equal(layer.lora_B.grad, plain.lora_B.grad)


@pytest.mark.parametrize("make", [frozen, four_bit])
def test_the_fused_form_follows_every_change_of_the_rank(make):
    layer, x = filled(make()), torch.randn(3, IN)
    use_hot_path({"q": layer})
    assert uses_hot_path(layer)
    for b, is_frozen in ((8, False), (3, False), (1, True), (5, True), (8, False)):
        layer.set_rank(b, frozen=is_frozen)
        computed, own = [], []
        for forward, into in ((layer, computed), (lambda x: type(layer).forward(layer, x), own)):
            y = forward(x)
            into += [y, *torch.autograd.grad(y.square().sum(), [layer.lora_A, layer.lora_B])]
        for fused, wanted in zip(computed, own, strict=True):
            torch.testing.assert_close(fused, wanted, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(computed[0], lora_of_slices(layer, b)(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("b", [0, RANK + 1])
def test_a_rank_it_does_not_have_is_refused(b):
    with pytest.raises(PlanError, match=f"rank {b} is none of a layer with {RANK} components") as caught:
        filled().set_rank(b)
    assert caught.value.fix == f"choose a rank from 1 to {RANK}"


@pytest.mark.parametrize(("published", "rank", "expected"), [(None, 8, 8), (3, 8, 3), (6, 4, 4)])
def test_it_is_made_at_the_rank_to_publish_as_far_as_a_site_has_it(published, rank, expected):
    adapter = DyloraAdapter(DyloraOptions(rank=8, published_rank=published))
    layer = adapter.wrap(frozen(), site(rank))
    assert (layer.rank, layer.max_rank) == (expected, rank)
