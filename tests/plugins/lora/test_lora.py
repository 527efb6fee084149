"""LoRA and rsLoRA train as stock PEFT's do, dropout included."""

import peft
import pytest
import torch
from torch import nn

from edgelora.layers import FrozenLinear, factors_are_exact, merge_into
from edgelora.layers.blockwise import BlockwiseQuantizer
from edgelora.options import BlockwiseOptions
from edgelora.protocols import Site
from edgelora_plugins.lora.layer import LoraAdapter
from edgelora_plugins.lora.options import LoraOptions


def layer_of(base, rank=4, alpha=8.0, **options):
    adapter = LoraAdapter(LoraOptions(rank=rank, alpha=alpha, **options))
    return adapter.wrap(base, Site("0", 0, "0", rank, alpha))


def frozen():
    torch.manual_seed(0)
    return FrozenLinear.of(nn.Linear(64, 24))


def four_bit():
    torch.manual_seed(0)
    return BlockwiseQuantizer(BlockwiseOptions()).quantize(nn.Linear(64, 24), "0")


BASES = pytest.mark.parametrize("make", [frozen, four_bit])


@pytest.mark.parametrize(
    ("rank", "stabilized", "scaling"), [(16, False, 0.5), (16, True, 2.0), (2, False, 4.0), (4, True, 4.0)]
)
def test_alpha_is_divided_by_the_rank_or_by_its_root(rank, stabilized, scaling):
    assert layer_of(frozen(), rank, 8.0, rank_stabilized=stabilized).scaling == scaling


@BASES
def test_the_merge_is_the_forward_on_what_the_base_dequantizes_to(make):
    layer, x = layer_of(make()), torch.randn(3, 64)
    nn.init.normal_(layer.lora_B)
    assert factors_are_exact(layer)
    merged = merge_into(layer, layer.base.dequantize(dtype=torch.float32))
    torch.testing.assert_close(x @ merged.T + layer.base.bias, layer(x), rtol=1e-5, atol=1e-5)


@BASES
@pytest.mark.parametrize("stabilized", [False, True])
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_training_is_that_of_stock_peft(make, stabilized, dropout):
    base = make()
    layer = layer_of(base, rank_stabilized=stabilized, dropout=dropout)
    plain = nn.Sequential(nn.Linear(64, 24))
    with torch.no_grad():
        plain[0].weight.copy_(base.dequantize(dtype=torch.float32))
        plain[0].bias.copy_(base.bias)
    config = peft.LoraConfig(
        r=4, lora_alpha=8, use_rslora=stabilized, lora_dropout=dropout, target_modules=["0"]
    )
    theirs = peft.get_peft_model(plain, config)
    peer = theirs.base_model.model[0]
    pairs = [
        (layer.lora_A, peer.lora_A["default"].weight),
        (layer.lora_B, peer.lora_B["default"].weight),
    ]
    with torch.no_grad():
        pairs[0][0].copy_(pairs[0][1])
    # A coarse epsilon: rounding must not decide the direction in which a gradient of nearly zero moves.
    optimizer = torch.optim.AdamW([mine for mine, _ in pairs], lr=1e-2, eps=1e-4)
    their_optimizer = torch.optim.AdamW([their for _, their in pairs], lr=1e-2, eps=1e-4)
    x, wanted = torch.randn(64, 64), torch.randn(64, 24)
    for step in range(20):
        for model, its_optimizer in ((layer.train(), optimizer), (theirs.train(), their_optimizer)):
            torch.manual_seed(step)
            (model(x) - wanted).square().mean().backward()
            its_optimizer.step()
            its_optimizer.zero_grad()
    for mine, their in pairs:
        torch.testing.assert_close(mine, their, rtol=1e-5, atol=1e-5)
    ours = layer.eval()(x)
    torch.testing.assert_close(ours, theirs.eval()(x), rtol=1e-5, atol=1e-5)
    assert (ours - base(x)).abs().max() > 0.1
