"""What every frozen layer keeps."""

import torch
from torch import nn

from edgelora.layers import FrozenLinear


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
