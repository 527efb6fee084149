"""Memory that is asked for again and again is taken once, and never shared between threads."""

import threading

import pytest
import torch
from small_layers import Allocated, four_bit
from torch import nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from edgelora.layers import FrozenLinear
from edgelora.layers.scratch import release_scratch, scratch

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def nothing_held():
    release_scratch()
    yield
    release_scratch()


def place(shape, dtype=torch.float32):
    return scratch(shape, dtype, CPU).data_ptr()


def test_the_same_memory_serves_all_that_fits_and_grows_to_the_largest():
    first = place((8, 8))
    assert place((4, 16), torch.bfloat16) == place((8, 8)) == first
    larger = place((16, 16))
    assert place((8, 8)) == larger


def test_each_thread_has_memory_of_its_own():
    mine, others = scratch((64,), torch.float32, CPU).fill_(1.0), []
    thread = threading.Thread(target=lambda: others.append(scratch((64,), torch.float32, CPU).fill_(2.0)))
    thread.start()
    thread.join()
    assert torch.equal(mine, torch.ones(64)) and torch.equal(others[0], torch.full((64,), 2.0))


def test_memory_taken_in_inference_mode_can_be_written_to_in_training():
    with torch.inference_mode():
        scratch((8,), torch.float32, CPU)
    scratch((8,), torch.float32, CPU).copy_(torch.ones(8))


def test_nothing_at_all_can_be_asked_for():
    assert scratch((0, 8), torch.bfloat16, CPU).shape == (0, 8)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_step_of_a_quantized_linear_makes_no_tensor_of_its_weights_size(dtype):
    layer, x = four_bit(256, 128, dtype), torch.randn(3, 128, dtype=dtype, requires_grad=True)
    layer(x).sum().backward()  # takes the memory
    with Allocated() as seen:
        layer(x).sum().backward()
    assert 0 < seen.largest < 256 * 128 // 8


def test_threads_that_compute_at_the_same_time_do_not_disturb_each_other():
    layers, results = [four_bit(64, 64 + 64 * number) for number in range(4)], {}

    def compute(number):
        x = torch.ones(2, layers[number].in_features, requires_grad=True)
        for _ in range(50):
            x.grad = None
            layers[number](x).sum().backward()
        results[number] = x.grad

    threads = [threading.Thread(target=compute, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number, layer in enumerate(layers):
        assert torch.equal(results[number], torch.ones(2, 64) @ layer.dequantize())


def test_a_forward_computed_again_in_the_backward_pass_finds_its_own_weight():
    first, second = four_bit(64, 128), four_bit(128, 64)
    x = torch.randn(2, 128, requires_grad=True)
    checkpoint(lambda x: second(first(x)), x, use_reentrant=False).square().sum().backward()
    plain = x.detach().clone().requires_grad_()
    product = functional.linear(functional.linear(plain, first.dequantize()), second.dequantize())
    product.square().sum().backward()
    assert torch.equal(x.grad, plain.grad)


def test_borrowing_an_unquantized_weight_is_looking_at_it():
    frozen = FrozenLinear.of(nn.Linear(8, 4))
    assert frozen.borrow(torch.float32).data_ptr() == frozen.weight.data_ptr()
    assert torch.equal(frozen.borrow(torch.bfloat16), frozen.weight.bfloat16())
