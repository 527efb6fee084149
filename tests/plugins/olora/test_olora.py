"""OLoRA: an orthonormal start that leaves the base as it was."""

import copy

import peft
import pytest
import torch
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel

from edgelora.engine.inject import inject
from edgelora.layers import FrozenLinear, factors_are_exact, merge_into
from edgelora.layers.blockwise import BlockwiseQuantizer
from edgelora.options import BlockwiseOptions
from edgelora.plan import make_plan
from edgelora.protocols import Site
from edgelora.recipe import make_recipe
from edgelora.registry import Registry
from edgelora_plugins.olora.layer import OloraLinear


def layer_of(base, rank=4, alpha=8.0):
    return OloraLinear(base, Site("q", 0, "q", rank, alpha))


def frozen(out_features=24, in_features=64, bias=True):
    torch.manual_seed(0)
    return FrozenLinear.of(nn.Linear(in_features, out_features, bias=bias))


def four_bit():
    torch.manual_seed(0)
    return BlockwiseQuantizer(BlockwiseOptions()).quantize(nn.Linear(64, 64), "q")


def test_the_start_is_the_published_example():
    base = FrozenLinear(torch.tensor([[3.0, 0.0], [4.0, 5.0]]), None, 2, 2)
    layer = layer_of(base, rank=1, alpha=1.0)
    product = layer.lora_B @ layer.lora_A
    torch.testing.assert_close(product, torch.tensor([[3.0, 2.4], [4.0, 3.2]]))
    torch.testing.assert_close(base.weight - product, torch.tensor([[0.0, -2.4], [0.0, 1.8]]))


def test_the_start_is_that_of_a_whole_qr_decomposition():
    base = frozen()
    layer = layer_of(base)
    Q, R = torch.linalg.qr(base.weight)
    torch.testing.assert_close(layer.lora_B @ layer.lora_A, Q[:, :4] @ R[:4], rtol=1e-5, atol=1e-5)
    assert (layer.lora_B.T @ layer.lora_B - torch.eye(4)).abs().max() <= 1e-6
    assert layer.lora_A.tril(-1).abs().max() <= 1e-6


@pytest.mark.parametrize("base", [frozen(), four_bit()], ids=["float32", "nf4"])
def test_training_starts_at_the_base_and_leaves_its_bytes(base):
    before = copy.deepcopy(base.state_dict())
    layer, x = layer_of(base), torch.randn(3, 5, 64)
    torch.testing.assert_close(layer(x), base(x), rtol=0, atol=1e-6)
    assert all(torch.equal(value, before[name]) for name, value in base.state_dict().items())


def test_only_the_moving_factors_learn_and_the_change_has_twice_the_rank():
    layer = layer_of(frozen())
    assert {name for name, p in layer.named_parameters() if p.requires_grad} == {"lora_A", "lora_B"}
    with torch.no_grad():
        layer.lora_A.add_(torch.randn_like(layer.lora_A))
        layer.lora_B.add_(torch.randn_like(layer.lora_B))
    A, B, scaling = layer.factors()
    assert (A.shape, B.shape, scaling) == ((8, 64), (24, 8), 2.0)
    assert factors_are_exact(layer)
    x = torch.randn(2, 64)
    merged = merge_into(layer, layer.base.dequantize())
    torch.testing.assert_close(x @ merged.T + layer.base.bias, layer(x), rtol=1e-5, atol=1e-5)


def test_training_is_that_of_stock_peft():
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Linear(32, 16))
    layer = OloraLinear(FrozenLinear.of(copy.deepcopy(plain[0])), Site("0", 0, "0", 4, 8.0))
    config = peft.LoraConfig(r=4, lora_alpha=8, init_lora_weights="olora", target_modules=["0"])
    theirs = peft.get_peft_model(plain, config)
    optimizer = torch.optim.AdamW([p for p in layer.parameters() if p.requires_grad], lr=1e-2)
    their_optimizer = torch.optim.AdamW([p for p in theirs.parameters() if p.requires_grad], lr=1e-2)
    x, wanted = torch.randn(64, 32), torch.randn(64, 16)
    for _ in range(20):
        for model, step in ((layer, optimizer), (theirs, their_optimizer)):
            (model(x) - wanted).square().mean().backward()
            step.step()
            step.zero_grad()
    torch.testing.assert_close(layer(x), theirs(x), rtol=1e-5, atol=1e-5)


def test_weights_kept_transposed_are_decomposed_as_they_are_used():
    model = GPT2LMHeadModel(GPT2Config(n_layer=1, n_embd=32, n_head=2, vocab_size=64)).eval()
    ids = torch.arange(8)[None]
    before = model(ids).logits
    recipe = make_recipe(
        {"base": "micro", "derivative": "olora", "adapter": {"rank": 4, "target_modules": ["c_proj"]}}
    )
    layers = inject(model, make_plan(recipe, Registry.discover()))
    assert torch.allclose(model(ids).logits, before, rtol=0, atol=1e-5)
    for layer in layers.values():
        assert torch.allclose(layer.lora_B.T @ layer.lora_B, torch.eye(4), atol=1e-5)


@pytest.mark.parametrize("learned", [1e-4, 1e-2])
def test_what_was_learned_survives_inputs_of_16_bits(learned):
    layer, x = layer_of(frozen(bias=False), rank=8), torch.randn(16, 64)
    with torch.no_grad():
        layer.lora_A.add_(learned * torch.randn_like(layer.lora_A))
        layer.lora_B.add_(learned * torch.randn_like(layer.lora_B))
        exact = layer.delta(x.double())
        rounded = layer.delta(x.bfloat16()).double()
    # bfloat16 has 8 bits: a few roundings of 0.4 %.
    assert float((rounded - exact).norm() / exact.norm()) < 0.02
