"""C-LoRA's layer: base plus past plus what is learned."""

import pytest
import torch
from torch import nn

from edgelora.layers import FrozenLinear, LowRankLinear, factors_are_exact, merge_into
from edgelora.layers.blockwise import BlockwiseQuantizer
from edgelora.options import BlockwiseOptions
from edgelora.protocols import Factors, Site
from edgelora_plugins.clora.layer import ContinualLinear

RANK, ALPHA = 4, 8.0


def frozen(out_features=48, in_features=64):
    torch.manual_seed(0)
    return FrozenLinear.of(nn.Linear(in_features, out_features))


def four_bit():
    torch.manual_seed(0)
    return BlockwiseQuantizer(BlockwiseOptions()).quantize(nn.Linear(64, 48), "q")


def past_of(*ranks, base):
    return tuple(
        Factors(torch.randn(rank, base.in_features), torch.randn(base.out_features, rank), 1.0)
        for rank in ranks
    )


def layer_of(base, past=(), **options):
    return ContinualLinear(base, Site("q", 0, "q", RANK, ALPHA, past=tuple(past)), **options)


def learn(layer):
    with torch.no_grad():
        layer.lora_A.add_(torch.randn_like(layer.lora_A))
        layer.lora_B.add_(torch.randn_like(layer.lora_B))
    return layer


def sum_of(base, past, x):
    return base(x) + sum(scaling * x @ A.T @ B.T for A, B, scaling in past)


@pytest.mark.parametrize("base", [frozen(), four_bit()], ids=["float32", "nf4"])
def test_training_starts_at_base_plus_past(base):
    past = past_of(3, 5, base=base)
    x = torch.randn(2, 7, 64)
    torch.testing.assert_close(layer_of(base, past)(x), sum_of(base, past, x), rtol=1e-5, atol=1e-5)


def test_without_a_past_it_is_lora_and_its_penalty_is_exactly_0():
    base = frozen()
    layer = learn(layer_of(base, penalty=1e6))
    plain = LowRankLinear(base, Site("q", 0, "q", RANK, ALPHA))
    plain.load_state_dict(layer.state_dict())
    x = torch.randn(3, 64)
    assert torch.equal(layer(x), plain(x))
    assert float(layer.aux_losses()["forgetting"]) == 0
    assert layer.past_factors() == ()


def test_the_penalty_of_a_layer_holds_both_scalings_and_lambda():
    base = frozen()
    layer = learn(layer_of(base, past_of(2, 3, base=base), penalty=0.5))
    H = layer.past_B @ layer.past_A
    change = layer.scaling * (layer.lora_B @ layer.lora_A)
    torch.testing.assert_close(layer.aux_losses()["forgetting"], 0.5 * (H * change).square().sum())


def test_a_penalty_of_0_learns_as_lora_beside_the_merged_past_does():
    """λ = 0 is LoRA after LoRA, step for step."""
    base = frozen()
    past = past_of(3, base=base)
    merged = FrozenLinear(base.weight + past[0].B @ past[0].A, base.bias, 64, 48)
    torch.manual_seed(1)
    layer = layer_of(base, past, penalty=0.0)
    torch.manual_seed(1)
    plain = LowRankLinear(merged, Site("q", 0, "q", RANK, ALPHA))
    x, wanted = torch.randn(32, 64), torch.randn(32, 48)
    for each in (layer, plain):
        optimizer = torch.optim.SGD([each.lora_A, each.lora_B], lr=0.1)
        for _ in range(5):
            loss = (each(x) - wanted).square().mean()
            (loss + sum(each.aux_losses().values()) if each is layer else loss).backward()
            optimizer.step()
            optimizer.zero_grad()
    torch.testing.assert_close(layer.lora_B, plain.lora_B, rtol=1e-4, atol=1e-5)
    assert layer.lora_B.any()


def test_after_a_task_is_folded_into_the_past_the_output_is_unchanged():
    base = frozen()
    layer = learn(layer_of(base, past_of(3, base=base)))
    own = Factors(layer.lora_A.detach(), layer.lora_B.detach(), layer.scaling)
    following = layer_of(base, (*layer.past_factors(), own))
    x = torch.randn(5, 64)
    torch.testing.assert_close(following(x), layer(x), rtol=1e-5, atol=1e-4)
    assert [len(each.A) for each in following.past_factors()] == [3, RANK]
    assert torch.equal(following.past_factors()[0].A, layer.past_factors()[0].A)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("adapter_dtype", [torch.float32, torch.bfloat16])
def test_the_output_has_the_dtype_of_the_input(dtype, adapter_dtype):
    base = frozen().to(dtype)
    layer = learn(layer_of(base, past_of(3, base=base)))
    layer.lora_A.data, layer.lora_B.data = layer.lora_A.to(adapter_dtype), layer.lora_B.to(adapter_dtype)
    assert layer(torch.randn(2, 64, dtype=dtype)).dtype == dtype


def test_the_factors_and_the_merge_are_the_forward():
    base = frozen()
    layer = learn(layer_of(base, past_of(3, 2, base=base)))
    assert factors_are_exact(layer)
    A, B, _ = layer.factors()
    assert A.shape == (3 + 2 + RANK, 64) and B.shape == (48, 3 + 2 + RANK)
    x = torch.randn(5, 64)
    merged = nn.functional.linear(x, merge_into(layer, base.dequantize()), base.bias)
    torch.testing.assert_close(merged, layer(x), rtol=1e-5, atol=1e-4)


def test_only_the_new_factors_learn():
    base = frozen()
    layer = layer_of(base, past_of(3, base=base), penalty=1.0)
    learning = {name: each.numel() for name, each in layer.named_parameters() if each.requires_grad}
    assert learning == {"lora_A": RANK * 64, "lora_B": 48 * RANK}
    before = layer.past_A.clone()
    (layer(torch.randn(2, 64)).sum() + sum(layer.aux_losses().values())).backward()
    assert torch.equal(layer.past_A, before) and layer.past_A.grad is None


def test_dropout_spares_the_past():
    base = frozen()
    past = past_of(3, base=base)
    layer = layer_of(base, past, dropout=0.5).train()
    x = torch.randn(2, 64)
    torch.testing.assert_close(layer(x), sum_of(base, past, x), rtol=1e-5, atol=1e-4)
