"""DoRA: direction and magnitude of each row, over any base."""

import copy

import peft
import pytest
import torch
from torch import nn
from torch.nn import functional

from edgelora.layers import FrozenLinear, merge_into
from edgelora.layers.blockwise import BlockwiseQuantizer
from edgelora.options import BlockwiseOptions
from edgelora.protocols import Site
from edgelora_plugins.dora.layer import DoraLinear


def frozen(out_features=24, in_features=64):
    torch.manual_seed(0)
    return FrozenLinear.of(nn.Linear(in_features, out_features))


def four_bit():
    torch.manual_seed(0)
    return BlockwiseQuantizer(BlockwiseOptions()).quantize(nn.Linear(64, 24), "q")


def layer_of(base, **options):
    return DoraLinear(base, Site("q", 0, "q", 4, 8.0), **options)


def fill(layer):
    with torch.no_grad():
        layer.lora_B.normal_(std=0.1)
        layer.lora_magnitude_vector.mul_(torch.rand_like(layer.lora_magnitude_vector) + 0.5)
    return layer


BASES = pytest.mark.parametrize("make", [frozen, four_bit])


def test_magnitudes_start_at_the_norms_of_the_rows():
    layer = DoraLinear(
        FrozenLinear(torch.tensor([[3.0, 4.0], [0.0, 2.0]]), None, 2, 2), Site("q", 0, "q", 1, 1.0)
    )
    assert layer.lora_magnitude_vector.tolist() == [5.0, 2.0]


@BASES
def test_training_starts_at_the_base_exactly(make):
    base, x = make(), torch.randn(2, 5, 64)
    assert torch.equal(layer_of(base)(x), base(x))


@BASES
def test_the_norm_is_that_of_the_whole_weight(make):
    layer = fill(layer_of(make()))
    whole = layer.base.dequantize(dtype=torch.float32) + layer.scaling * layer.lora_B @ layer.lora_A
    torch.testing.assert_close(layer.norm(), whole.norm(dim=1))


def test_the_norm_follows_every_change_of_a_factor():
    layer = fill(layer_of(frozen()))
    for change in (
        lambda: layer.lora_B.add_(1.0),
        lambda: layer.lora_A.copy_(torch.randn(4, 64)),
        lambda: setattr(layer.lora_B, "data", torch.randn(24, 4)),
    ):
        layer.norm()
        with torch.no_grad():
            change()
            whole = layer.base.weight + layer.scaling * layer.lora_B @ layer.lora_A
        torch.testing.assert_close(layer.norm(), whole.norm(dim=1))


@BASES
def test_the_forward_is_the_published_one_and_so_is_the_merge(make):
    layer, x = fill(layer_of(make())), torch.randn(2, 5, 64)
    weight = layer.base.dequantize(dtype=torch.float32)
    direction = weight + layer.scaling * layer.lora_B @ layer.lora_A
    gain = layer.lora_magnitude_vector / direction.norm(dim=1)
    expected = gain * (x @ direction.T) + layer.base.bias
    torch.testing.assert_close(layer(x), expected, rtol=1e-5, atol=1e-5)
    merged = merge_into(layer, weight)
    torch.testing.assert_close(x @ merged.T + layer.base.bias, expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(merged.norm(dim=1), layer.lora_magnitude_vector, rtol=1e-6, atol=1e-6)


def test_rows_keep_their_norm_when_the_direction_grows():
    layer = fill(layer_of(frozen()))
    before = merge_into(layer, layer.base.weight).norm(dim=1)
    with torch.no_grad():
        layer.lora_B.mul_(3.0)
    torch.testing.assert_close(merge_into(layer, layer.base.weight).norm(dim=1), before)


def test_dropout_leaves_the_bases_own_product_alone():
    layer, x = fill(layer_of(frozen(), dropout=0.5)), torch.randn(4, 64)
    torch.manual_seed(3)
    computed = layer.train()(x)
    torch.manual_seed(3)
    dropped = functional.dropout(x, 0.5)
    gain = layer.lora_magnitude_vector / layer.norm()
    low = layer.scaling * dropped @ layer.lora_A.T @ layer.lora_B.T
    expected = layer.base(x) + (gain - 1) * (dropped @ layer.base.weight.T) + gain * low
    torch.testing.assert_close(computed, expected)


def test_rows_of_zeros_give_finite_outputs_and_gradients():
    base = FrozenLinear(torch.zeros(3, 8), None, 8, 3)
    layer = DoraLinear(base, Site("q", 0, "q", 2, 2.0))
    optimizer = torch.optim.AdamW(layer.parameters(), lr=1e-2)
    for _ in range(3):
        loss = (layer(torch.randn(4, 8)) - 1).square().mean()
        loss.backward()
        assert loss.isfinite() and all(p.grad.isfinite().all() for p in layer.parameters() if p.requires_grad)
        optimizer.step()


def test_the_norm_is_a_constant_in_the_backward_pass():
    layer, x = fill(layer_of(frozen())), torch.randn(6, 64)
    layer(x).square().sum().backward()
    direction = layer.base.weight + layer.scaling * layer.lora_B @ layer.lora_A
    gain = (layer.lora_magnitude_vector / direction.norm(dim=1)).detach()
    A, B = (p.detach().clone().requires_grad_() for p in (layer.lora_A, layer.lora_B))
    change = layer.base.weight + layer.scaling * B @ A
    (gain * (x @ change.T) + layer.base.bias).square().sum().backward()
    torch.testing.assert_close(layer.lora_A.grad, A.grad, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(layer.lora_B.grad, B.grad, rtol=1e-4, atol=1e-4)


def test_the_gradient_of_a_magnitude_is_that_of_its_rows_direction():
    layer, x = fill(layer_of(frozen())), torch.randn(6, 64)
    out = layer(x)
    (upstream,) = torch.autograd.grad(out.square().sum(), out, retain_graph=True)
    out.square().sum().backward()
    direction = (layer.base.weight + layer.scaling * layer.lora_B @ layer.lora_A).detach()
    expected = (upstream * (x @ direction.T) / direction.norm(dim=1)).sum(dim=0)
    torch.testing.assert_close(layer.lora_magnitude_vector.grad, expected, rtol=1e-4, atol=1e-4)


def test_it_computes_the_same_while_training_and_not_over_four_bits():
    layer, x = fill(layer_of(four_bit())), torch.randn(2, 64)
    assert torch.equal(layer.train()(x), layer.eval()(x))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_the_output_has_the_dtype_of_the_input(dtype):
    layer = fill(layer_of(frozen().to(dtype)))
    assert layer(torch.randn(2, 64, dtype=dtype)).dtype == dtype


@BASES
def test_training_is_that_of_stock_peft(make):
    base = make()
    plain = nn.Sequential(nn.Linear(64, 24))
    with torch.no_grad():
        plain[0].weight.copy_(base.dequantize(dtype=torch.float32))
        plain[0].bias.copy_(base.bias)
    config = peft.LoraConfig(r=4, lora_alpha=8, use_dora=True, target_modules=["0"])
    theirs = peft.get_peft_model(plain, config)
    peer, layer = theirs.base_model.model[0], layer_of(base)
    with torch.no_grad():
        layer.lora_A.copy_(peer.lora_A["default"].weight)
    pairs = [
        (layer.lora_A, peer.lora_A["default"].weight),
        (layer.lora_B, peer.lora_B["default"].weight),
        (layer.lora_magnitude_vector, peer.lora_magnitude_vector["default"].weight),
    ]
    optimizer = torch.optim.AdamW([mine for mine, _ in pairs], lr=1e-2, eps=1e-4)
    their_optimizer = torch.optim.AdamW([their for _, their in pairs], lr=1e-2, eps=1e-4)
    x, wanted = torch.randn(64, 64), torch.randn(64, 24)
    for _ in range(20):
        for model in (layer, theirs):
            (model(x) - wanted).square().mean().backward()
        for mine, their in pairs:
            torch.testing.assert_close(mine.grad, their.grad, rtol=1e-5, atol=1e-5)
        for step in (optimizer, their_optimizer):
            step.step()
            step.zero_grad()
    torch.testing.assert_close(layer(x), theirs(x), rtol=1e-5, atol=1e-5)
    for mine, their in pairs:
        torch.testing.assert_close(mine, their, rtol=1e-5, atol=1e-5)


def test_a_copy_computes_the_same():
    layer, x = fill(layer_of(frozen())), torch.randn(2, 64)
    layer(x)
    assert torch.equal(copy.deepcopy(layer)(x), layer(x))


def test_what_a_magnitude_learns_is_not_rounded_away_in_16_bits():
    layer, x = layer_of(frozen()).to(torch.bfloat16), torch.randn(2, 5, 64, dtype=torch.bfloat16)
    layer.lora_magnitude_vector.data = layer.norm().clone()
    start = layer(x)
    with torch.no_grad():
        layer.lora_magnitude_vector.mul_(1.003)  # less than bfloat16 can tell from 1
    # Outputs whose last digit is worth more than twice the change stay.
    assert float((layer(x) != start).float().mean()) > 0.3


def test_a_change_made_unseen_is_noticed_when_the_phase_changes():
    layer = fill(layer_of(frozen()))
    layer.norm()
    layer.lora_B.data.normal_()  # as kernels write that do not tell autograd
    whole = layer.base.weight + layer.scaling * layer.lora_B @ layer.lora_A
    torch.testing.assert_close(layer.eval().norm(), whole.norm(dim=1))


def test_it_trains_on_after_a_forward_in_inference_mode():
    layer, x = fill(layer_of(frozen())), torch.randn(3, 64)
    with torch.inference_mode():
        expected = layer(x)
    computed = layer(x)
    computed.sum().backward()
    torch.testing.assert_close(computed, expected.clone())
    assert layer.lora_magnitude_vector.grad.any()


def test_dropout_keeps_no_dequantized_weight_for_the_backward_pass():
    layer, saved = fill(layer_of(four_bit(), dropout=0.1)).train(), []
    x = torch.randn(2, 64, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t.numel()) or t, lambda t: t):
        layer(x)
    assert max(saved) < layer.base.in_features * layer.base.out_features
