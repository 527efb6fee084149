"""What every frozen layer keeps."""

import pytest
import torch
from small_layers import four_bit
from torch import nn
from torch.utils.checkpoint import checkpoint

from edgelora.layers import FrozenLinear, QuantizedLinear
from edgelora.layers.blockwise import BlockwiseLinear


def test_it_computes_what_the_linear_did_and_trains_nothing():
    linear = nn.Linear(8, 4)
    frozen = FrozenLinear.of(linear)
    x = torch.randn(3, 8, requires_grad=True)
    assert torch.equal(frozen(x), linear(x))
    frozen(x).sum().backward()
    assert x.grad is not None
    assert not any(parameter.requires_grad for parameter in frozen.parameters())


def test_dequantize_is_detached_and_can_write_into_a_buffer():
    frozen = FrozenLinear.of(nn.Linear(8, 4))
    out = torch.empty(4, 8)
    assert frozen.dequantize(out=out) is out
    assert torch.equal(out, frozen.weight)
    assert not frozen.dequantize().requires_grad
    assert frozen.dequantize(dtype=torch.bfloat16).dtype == torch.bfloat16


def test_its_state_is_that_of_a_linear():
    linear = nn.Linear(8, 4)
    assert FrozenLinear.of(linear).state_dict().keys() == linear.state_dict().keys()


class Halved(QuantizedLinear):
    """As a third party may write it: dequantizes at once, and copies."""

    def __init__(self, linear):
        super().__init__(None, linear.in_features, linear.out_features)
        self.register_buffer("codes", linear.weight.detach().half())

    def dequantize(self, out=None, dtype=None):
        weight = self.codes.to(dtype or torch.float32)
        return weight if out is None else out.copy_(weight)


@pytest.mark.parametrize("kind", [FrozenLinear.of, Halved])
@pytest.mark.parametrize("size", [1, 20, 1000])
def test_pieces_are_the_rows_of_the_weight(kind, size):
    frozen = kind(nn.Linear(8, 5))
    for dtype in (torch.float32, torch.bfloat16):
        pieces = [(rows, some.clone()) for rows, some in frozen.pieces(dtype, size)]
        assert torch.equal(torch.cat([some for _, some in pieces]), frozen.dequantize(dtype=dtype))
        assert all(some.numel() <= max(size, 8) for _, some in pieces)


def test_a_quantized_layer_adds_its_bias():
    linear = nn.Linear(8, 5)
    layer = Halved(linear)
    layer.bias = nn.Parameter(linear.bias.detach(), requires_grad=False)
    x = torch.randn(3, 8)
    assert torch.equal(layer(x), nn.functional.linear(x, layer.dequantize()) + linear.bias)


def test_gradients_of_gradients_over_a_quantized_layer_are_refused_in_words():
    x = torch.randn(3, 8, requires_grad=True)
    (gradient,) = torch.autograd.grad(Halved(nn.Linear(8, 5))(x).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


def test_a_checkpointed_product_is_computed_again_before_its_weight_is_looked_at():
    layer, seen = Halved(nn.Linear(8, 5)), []
    layer.register_forward_pre_hook(lambda *_: seen.append("forward"))
    layer.input_gradient = lambda g: seen.append("gradient") or g @ layer.dequantize()
    x = torch.randn(3, 8, requires_grad=True)
    checkpoint(layer, x, use_reentrant=False).sum().backward()
    assert seen == ["forward", "forward", "gradient"]


@pytest.mark.parametrize("kind", [FrozenLinear, BlockwiseLinear])
def test_pieces_are_those_of_a_subclass_that_dequantizes_in_its_own_way(kind):
    class Negative(kind):
        def dequantize(self, out=None, dtype=None):
            weight = -super().dequantize(dtype=dtype)
            return weight if out is None else out.copy_(weight)

    frozen = FrozenLinear.of(nn.Linear(64, 5)) if kind is FrozenLinear else four_bit(5, 64)
    expected = -frozen.dequantize(dtype=torch.bfloat16)
    frozen.__class__ = Negative
    assert torch.equal(torch.cat([some for _, some in frozen.pieces(torch.bfloat16, 64)]), expected)
