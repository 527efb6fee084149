"""ResLoRA's three shortcuts are the paper's equations, written out over a stack of linears."""

import copy
import itertools

import pytest
import torch
from linear_stacks import ALPHA, RANK, WIDTH, Stack, adapt, data, given, moved
from torch import nn

from edgelora.engine.hot_path import uses_hot_path
from edgelora.engine.inject import adapter_tensors, trainable_parameters
from edgelora.errors import CombinationError
from edgelora.layers import FrozenLinear, LowRankLinear, factors_are_exact, merge_into
from edgelora.protocols import Site
from edgelora_plugins.reslora.chain import chains

SCALING = ALPHA / RANK
EVERY = ["input-shortcut", "block-shortcut", "middle-shortcut"]


def change(adapter, layers, inputs, n, pre_num):
    """What block n adds to its base, by the paper."""
    before = range(n, max(n - pre_num, 0) - 1, -1)
    A, B = (lambda k: layers[k].lora_A), (lambda k: layers[k].lora_B)
    match adapter:
        case "input-shortcut":
            return SCALING * (inputs[n] + inputs[max(n - 1, 0)]) @ A(n).T @ B(n).T
        case "block-shortcut":
            return SCALING * sum(inputs[n] @ A(k).T @ B(k).T for k in before)
        case "middle-shortcut":
            return SCALING * sum(inputs[k] @ A(k).T for k in before) @ B(n).T


def options_of(adapter, pre_num):
    return {} if adapter == "input-shortcut" else {"pre_num": pre_num}


def written_out(adapter, layers, x, pre_num):
    """The stack by the paper's equations."""
    inputs = []
    for n, layer in enumerate(layers):
        inputs.append(x)
        x = torch.tanh(layer.base(x) + change(adapter, layers, inputs, n, pre_num))
    return x


CASES = [("input-shortcut", 1), *itertools.product(EVERY[1:], [0, 1, 2, -1])]


@pytest.mark.parametrize(("adapter", "pre_num"), CASES)
def test_outputs_and_gradients_are_those_of_the_equation(adapter, pre_num):
    model, layers = moved(adapter, **options_of(adapter, pre_num))
    x, reach = data().requires_grad_(), 4 if pre_num == -1 else pre_num
    learned = [x, *(parameter for layer in layers for parameter in (layer.lora_A, layer.lora_B))]
    for computed, expected in zip(
        [(y := model(x)), *torch.autograd.grad(y.square().sum(), learned)],
        [(z := written_out(adapter, layers, x, reach)), *torch.autograd.grad(z.square().sum(), learned)],
        strict=True,
    ):
        torch.testing.assert_close(computed, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("adapter", EVERY)
def test_training_starts_at_the_base(adapter):
    torch.manual_seed(0)
    model, x = Stack(), data()
    expected = model(x)
    adapt(model, adapter)
    torch.testing.assert_close(model(x), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("adapter", EVERY[1:])
def test_without_shortcuts_it_is_lora(adapter):
    model, layers = moved(adapter, pre_num=0)
    for layer, (x, y) in zip(layers, given(layers, model, data()), strict=True):
        lora = LowRankLinear(layer.base, Site("proj", 0, "proj", RANK, ALPHA))
        lora.load_state_dict(layer.state_dict(), strict=False)
        torch.testing.assert_close(lora(x), y, rtol=1e-6, atol=1e-6)


def test_the_first_block_reads_its_own_input_twice():
    model, layers = moved("input-shortcut")
    x, y = given(layers, model, data())[0]
    lora = LowRankLinear(layers[0].base, Site("proj", 0, "proj", RANK, 2 * ALPHA))
    lora.load_state_dict(layers[0].state_dict(), strict=False)
    torch.testing.assert_close(y, lora(x), rtol=1e-6, atol=1e-6)


def test_a_middle_shortcut_from_a_factor_of_zeros_is_none():
    model, layers = moved("middle-shortcut", pre_num=1)
    with torch.no_grad():
        layers[1].lora_A.zero_()
    x, y = given(layers, model, data())[2]
    lora = LowRankLinear(layers[2].base, Site("proj", 0, "proj", RANK, ALPHA))
    lora.load_state_dict(layers[2].state_dict(), strict=False)
    torch.testing.assert_close(y, lora(x), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("adapter", "reached"),
    [("block-shortcut", {"lora_A", "lora_B"}), ("middle-shortcut", {"lora_A"}), ("input-shortcut", set())],
)
def test_the_gradient_of_one_block_reaches_the_factors_of_those_before(adapter, reached):
    model, layers = moved(adapter)
    seen = given(layers, model, data())
    # Of the last block's own change alone: what the blocks before put into its input is cut off.
    inputs = [x.detach() for x, _ in seen]
    for layer, x in zip(layers, inputs, strict=True):
        y = layer(x)
    (y - layers[-1].base(inputs[-1])).square().sum().backward()
    found = {
        name for layer in layers[:-1] for name, each in layer.named_parameters() if each.grad is not None
    }
    assert found == reached
    assert all(layer.lora_A.grad.any() for layer in layers[:-1] if reached)


def test_the_gradient_of_one_block_reaches_the_input_of_the_block_before():
    model, layers = moved("input-shortcut")
    inputs = [x.detach().requires_grad_() for x, _ in given(layers, model, data())]
    for layer, x in zip(layers, inputs, strict=True):
        y = layer(x)
    y.sum().backward()
    assert [x.grad is not None for x in inputs] == [False, False, True, True]


def test_block_shortcuts_are_one_product_and_fold_exactly():
    model, layers = moved("block-shortcut", pre_num=2)
    assert [layer.factors().A.shape for layer in layers] == [(4, 16), (8, 16), (12, 16), (12, 16)]
    for layer, (x, y) in zip(layers, given(layers, model, data()), strict=True):
        assert factors_are_exact(layer)
        folded = nn.functional.linear(x, merge_into(layer, layer.base.dequantize()), layer.base.bias)
        torch.testing.assert_close(folded, y, rtol=1e-5, atol=1e-5)


def test_block_shortcuts_bring_the_scale_of_their_own_block():
    model, layers = moved("block-shortcut", alpha_pattern={"blocks.1.proj": 2 * ALPHA})
    for layer, (x, y) in zip(layers, given(layers, model, data()), strict=True):
        A, B, scaling = layer.factors()
        torch.testing.assert_close(layer.base(x) + scaling * x @ A.T @ B.T, y, rtol=1e-5, atol=1e-5)
    changes = [each.scaling * each.lora_B @ each.lora_A for each in layers[:2]]
    A, B, scaling = layers[1].factors()
    torch.testing.assert_close(scaling * B @ A, sum(changes), rtol=1e-5, atol=1e-5)


def test_block_shortcuts_compute_by_their_factors_as_by_their_own_forward():
    torch.manual_seed(0)
    model = Stack()
    layers = adapt(model, "block-shortcut", fused=True)
    assert all(map(uses_hot_path, layers.values()))
    with torch.no_grad():
        for layer in layers.values():
            layer.lora_B.normal_(std=0.3)
    x, own = data(), [parameter for layer in layers.values() for parameter in (layer.lora_A, layer.lora_B)]
    fused = [model(x), *torch.autograd.grad(model(x).square().sum(), own)]
    for layer in layers.values():
        del layer.forward
    plain = [model(x), *torch.autograd.grad(model(x).square().sum(), own)]
    for one, other in zip(fused, plain, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


def test_each_branch_drops_elements_of_its_own():
    torch.manual_seed(0)
    layers = list(adapt(Stack(), "block-shortcut", dropout=0.5, pre_num=1).values())
    for layer in layers[:2]:
        layer.lora_A.data = torch.eye(RANK, WIDTH)
        layer.lora_B.data = torch.eye(WIDTH, RANK) * (1.0 if layer is layers[0] else 10.0)
    # Each branch passes the first elements on, so that the sum tells which of the two dropped which.
    sums = layers[1].train().delta(torch.ones(50, WIDTH))[:, :RANK] / (SCALING * 2)
    assert set(sums.round().flatten().tolist()) == {0.0, 1.0, 10.0, 11.0}


@pytest.mark.parametrize("adapter", EVERY)
def test_dropout_is_for_training(adapter):
    model, _ = moved(adapter, dropout=0.5)
    assert torch.equal(model(data()), model(data()))
    model.train()
    assert not torch.equal(model(data()), model(data()))


def test_a_chain_goes_on_only_where_shapes_are_equal():
    widths = (16, 16, 24, 16, 16)
    stack = adapt(Stack(widths), "block-shortcut", pre_num=-1)
    assert [list(chain) for chain in chains(stack)] == [
        ["blocks.0.proj"], ["blocks.1.proj"], ["blocks.2.proj"], ["blocks.3.proj", "blocks.4.proj"]
    ]  # fmt: skip
    assert [len(layer.earlier) for layer in stack.values()] == [0, 0, 0, 0, 1]


def test_towers_are_not_before_each_other():
    towers = nn.ModuleDict({"vision": Stack((16,) * 2), "text": Stack((16,) * 2)})
    layers = adapt(towers, "middle-shortcut")
    assert [list(chain) for chain in chains(layers)] == [
        [f"{tower}.blocks.{n}.proj" for n in range(2)] for tower in ("vision", "text")
    ]
    assert layers["text.blocks.0.proj"].neighbours() == ()
    assert layers["text.blocks.1.proj"].neighbours() == ("text.blocks.0.proj",)


def test_linears_of_a_plain_sequence_are_of_one_kind():
    layers = adapt(nn.Sequential(*(nn.Linear(16, 16) for _ in range(3))), "input-shortcut")
    assert layers["2"].neighbours() == ("1",)


@pytest.mark.parametrize("adapter", EVERY)
def test_each_layer_holds_its_own_tensors_only(adapter):
    layers = adapt(Stack(), adapter)
    names = {name.rpartition(".proj.")[2] for name in adapter_tensors(layers)}
    windows = {"input_norms.values"} if adapter != "block-shortcut" else set()
    windows |= {"state_norms.values"} if adapter == "middle-shortcut" else set()
    assert names == {"lora_A", "lora_B"} | windows
    assert len(trainable_parameters(layers)) == 2 * len(layers)
    for layer in layers.values():
        assert sum(isinstance(part, FrozenLinear) for part in layer.modules()) == 1


@pytest.mark.parametrize("adapter", EVERY)
def test_a_copied_model_is_another_one(adapter):
    model, layers = moved(adapter)
    expected = model(data())
    copied = copy.deepcopy(model)
    with torch.no_grad():
        for layer in layers:
            layer.lora_B.zero_()
    assert torch.equal(copied(data()), expected)


@pytest.mark.parametrize("adapter", ["input-shortcut", "middle-shortcut"])
def test_a_block_that_is_left_out_is_refused_by_name(adapter):
    model, _ = moved(adapter)
    del model.blocks[1]
    with pytest.raises(CombinationError, match=r"blocks.2.proj reads what blocks.1.proj was given"):
        model(data())
