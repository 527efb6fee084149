"""The decomposed product: its start, its regularization, its merge."""

import math

import pytest
import torch
from torch import nn

from edgelora.layers import FrozenLinear, factors_are_exact, merge_into
from edgelora.protocols import Site
from edgelora_plugins.adalora.layer import SvdAdapter, SvdLinear
from edgelora_plugins.adalora.options import SvdOptions


def layer_of(rank=3, sites=1, **options):
    torch.manual_seed(0)
    base = FrozenLinear.of(nn.Linear(12, 8))
    adapter = SvdAdapter(SvdOptions(rank=rank, alpha=6, **options))
    layer = adapter.wrap(base, Site("q", 0, "q", rank, 6.0))
    adapter.link(dict.fromkeys(map(str, range(sites)), layer))
    return layer


def fill(layer: SvdLinear):
    with torch.no_grad():
        layer.lora_E.normal_()
    return layer


def test_it_starts_at_the_base():
    layer, x = layer_of(), torch.randn(2, 5, 12)
    assert torch.equal(layer(x), layer.base(x))
    assert not layer.lora_E.any()


def test_factors_start_normal_with_deviation_0_02():
    torch.manual_seed(0)
    layer = SvdLinear(FrozenLinear.of(nn.Linear(500, 400)), Site("q", 0, "q", 20, 6.0))
    for factor in (layer.lora_A, layer.lora_B):
        # Of 8,000 draws the deviation is known to 1 %, and the mean to 1 % of the deviation.
        assert factor.std().item() == pytest.approx(0.02, rel=0.04)
        assert abs(factor.mean().item()) < 0.04 * 0.02


def test_alpha_is_divided_by_the_rank_of_the_start_as_the_authors_do():
    assert layer_of().scaling == 6 / (3 + 1e-5)


def test_the_forward_is_the_decomposed_product_and_so_are_factors_and_merge():
    layer, x = fill(layer_of()), torch.randn(2, 5, 12)
    A, E, B = layer.lora_A, layer.lora_E, layer.lora_B
    expected = layer.base(x) + layer.scaling * (x @ (A * E).T @ B.T)
    torch.testing.assert_close(layer(x), expected)
    assert factors_are_exact(layer)
    merged = merge_into(layer, layer.base.dequantize())
    torch.testing.assert_close(x @ merged.T + layer.base.bias, expected, rtol=1e-5, atol=1e-5)


def test_the_regularization_of_zero_factors_is_the_root_of_the_rank():
    layer = layer_of(orthogonality=1.0)
    with torch.no_grad():
        layer.lora_A.zero_()
        layer.lora_B.zero_()
    assert float(layer.aux_losses()["orthogonality"]) == pytest.approx(math.sqrt(3))


def test_the_regularization_of_all_sites_is_the_mean_over_their_factors():
    layers = [fill(layer_of(sites=4, orthogonality=0.3)) for _ in range(4)]
    eye = torch.eye(3)
    norms = [(each.lora_A @ each.lora_A.T - eye).norm() for each in layers]
    norms += [(each.lora_B.T @ each.lora_B - eye).norm() for each in layers]
    total = sum(each.aux_losses()["orthogonality"] for each in layers)
    torch.testing.assert_close(total, 0.3 * torch.stack(norms).mean())


def test_zeroed_components_add_nothing_and_may_grow_again():
    layer, x = fill(layer_of()), torch.randn(2, 12)
    layer.zero_ranks(torch.tensor([True, False, False]))
    assert layer.lora_E[1:].eq(0).all() and layer.lora_E[0] != 0
    kept = layer.scaling * (x @ (layer.lora_A[:1] * layer.lora_E[:1]).T @ layer.lora_B[:, :1].T)
    torch.testing.assert_close(layer.delta(x), kept)
    layer.delta(x).sum().backward()
    assert layer.lora_E.grad.ne(0).all()
