"""The low-rank layer against LoRA's equation written out."""

import math

import pytest
import torch
from torch import nn

from edgelora.capabilities import Additive, LowRank
from edgelora.errors import ExportUnsupported
from edgelora.layers import FrozenLinear, LowRankLinear, factors_are_exact, merge_into
from edgelora.protocols import Factors, Site


def layer_of(rank=4, alpha=8.0, dropout=0.0, bias=True, seed=0):
    torch.manual_seed(seed)
    base = FrozenLinear.of(nn.Linear(32, 16, bias=bias))
    site = Site(name="a.q_proj", depth=0, kind="q_proj", rank=rank, alpha=alpha)
    return LowRankLinear(base, site, dropout=dropout)


def trained(**options):
    layer = layer_of(**options)
    nn.init.normal_(layer.lora_B)
    return layer


def test_training_starts_at_the_base():
    layer, x = layer_of(), torch.randn(3, 32)
    assert torch.equal(layer(x), layer.base(x))


def test_output_is_the_equation():
    layer, x = trained(), torch.randn(2, 5, 32)
    naive = layer.base(x) + 8.0 / 4 * x @ layer.lora_A.T @ layer.lora_B.T
    assert torch.allclose(layer(x), naive, atol=1e-5)


def test_merged_weight_gives_the_same_output():
    layer, x = trained(), torch.randn(3, 32)
    merged = nn.functional.linear(x, merge_into(layer, layer.base.dequantize()), layer.base.bias)
    assert torch.allclose(layer(x), merged, atol=1e-5)


def test_change_has_at_most_the_rank():
    layer = trained(rank=3)
    A, B, scaling = layer.factors()
    assert torch.linalg.matrix_rank(scaling * B @ A) <= 3


def test_parameters_are_rank_times_in_plus_out():
    layer = layer_of(rank=4)
    assert sum(p.numel() for p in layer.parameters() if p.requires_grad) == 4 * (32 + 16)


def test_only_the_factors_get_gradients():
    layer = trained()
    layer(torch.randn(3, 32)).sum().backward()
    assert {name for name, p in layer.named_parameters() if p.grad is not None} == {"lora_A", "lora_B"}


def test_at_the_start_only_B_has_a_gradient():
    layer = layer_of()
    layer(torch.randn(3, 32)).square().sum().backward()
    assert not layer.lora_A.grad.any() and layer.lora_B.grad.any()


def test_merging_leaves_the_base_bit_for_bit():
    layer = trained()
    before = layer.base.weight.clone()
    assert not torch.equal(merge_into(layer, layer.base.dequantize()), before)
    assert torch.equal(layer.base.weight, before)


def test_A_starts_uniform_within_one_over_root_in():
    layer = layer_of(rank=16)
    assert layer.lora_A.abs().max() <= 1 / math.sqrt(32)
    assert layer.lora_A.std().item() == pytest.approx(1 / math.sqrt(3 * 32), rel=0.1)


def test_dropout_acts_on_the_branch_only_and_only_in_training():
    layer, x = trained(dropout=0.5), torch.randn(64, 32)
    assert torch.equal(layer.eval()(x), layer(x))
    torch.manual_seed(0)
    dropped = layer.train()(x)
    assert not torch.allclose(dropped, layer.eval()(x))
    nn.init.zeros_(layer.lora_B)
    assert torch.equal(layer.train()(x), layer.base(x))


@pytest.mark.parametrize("adapter", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("base", [torch.float32, torch.bfloat16])
def test_output_keeps_the_dtype_of_the_input(adapter, base):
    layer = trained()
    layer.base.to(base)
    layer.lora_A.data, layer.lora_B.data = layer.lora_A.data.to(adapter), layer.lora_B.data.to(adapter)
    assert layer(torch.randn(2, 32, dtype=base)).dtype == base


def test_it_has_the_abilities_its_plugin_declares():
    assert isinstance(layer_of(), LowRank)
    assert isinstance(layer_of(), Additive)


def test_a_layer_that_cannot_be_merged_is_refused_by_name():
    with pytest.raises(ExportUnsupported, match=r"what a\.q_proj computes cannot be folded") as caught:
        merge_into(nn.Linear(2, 2), torch.zeros(2, 2), "a.q_proj")
    assert "--adapter" in caught.value.fix


class Louder(LowRankLinear):
    def forward(self, x):
        return self.base(x) + 1.5 * self.delta(x)


class Cancelling(LowRankLinear):
    """Two factors that cancel down to rounding noise."""

    def factors(self):
        A, B, scaling = super().factors()
        return Factors(torch.cat([A, A]), torch.cat([B, -B], dim=1), scaling)


def filled(kind):
    torch.manual_seed(0)
    layer = kind(FrozenLinear.of(nn.Linear(32, 16)), Site("q", 0, "q", 4, 8.0))
    nn.init.normal_(layer.lora_B)
    return layer


def test_factors_that_the_forward_does_not_add_are_noticed():
    layer = filled(Louder)
    assert not factors_are_exact(layer)
    with pytest.raises(ExportUnsupported, match="this layer are not what its forward computes"):
        merge_into(layer, layer.base.dequantize())


def test_a_change_of_rounding_noise_is_exact():
    assert factors_are_exact(filled(Cancelling))


def test_asking_leaves_the_layer_as_it_was():
    layer = filled(LowRankLinear)
    base = layer.base
    assert factors_are_exact(layer)
    assert layer.base is base and layer.training
