"""Layers that read their weights some rows at a time compute what plain layers compute."""

import copy
import pickle

import pytest
import torch
from torch.nn import functional

from edgelora.layers import FrozenLinear
from edgelora.layers.mapped import MappedEmbedding, MappedLinear

FLOAT = torch.float32


class Log:
    """Pages that write down what is asked of them."""

    def __init__(self, entries, number):
        self.entries, self.number = entries, number

    def ahead(self):
        self.entries.append(("ahead", self.number))

    def release(self):
        self.entries.append(("release", self.number))


def quiet(tensors):
    return Log([], 0)


def weight(dtype=torch.float32):
    return torch.randn(10, 8, generator=torch.Generator().manual_seed(0)).to(dtype)


def gradient(layer, x):
    x = x.detach().clone().requires_grad_()
    (layer(x) * torch.arange(1.0, 11.0)).sum().backward()
    return x.grad


@pytest.mark.parametrize("shape", [(8,), (3, 8), (2, 3, 8)])
@pytest.mark.parametrize("chunk_rows", [1, 3, 10, 99])
@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("biased", [False, True])
def test_product_and_gradient_are_those_of_the_converted_weight(shape, chunk_rows, stored, biased):
    bias = torch.arange(10.0) if biased else None
    mapped = MappedLinear(weight(stored), bias, dtype=FLOAT, pages_of=quiet, chunk_rows=chunk_rows)
    plain = FrozenLinear(weight(stored).float(), bias, 8, 10)
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    assert torch.allclose(mapped(x), plain(x), rtol=1e-6, atol=1e-6)
    assert torch.allclose(gradient(mapped, x), gradient(plain, x), rtol=1e-6, atol=1e-6)
    if chunk_rows >= 10:
        assert torch.equal(mapped(x), plain(x))
        assert torch.equal(gradient(mapped, x), gradient(plain, x))


def test_sixteen_bit_gradients_are_summed_up_in_float32():
    mapped = MappedLinear(weight(torch.bfloat16), dtype=torch.bfloat16, pages_of=quiet, chunk_rows=1)
    x = torch.ones(4, 8, dtype=torch.bfloat16, requires_grad=True)
    mapped(x).sum().backward()
    exact = weight(torch.bfloat16).float().sum(0).expand(4, 8)
    assert x.grad.dtype == torch.bfloat16
    assert torch.equal(x.grad, exact.bfloat16())


def test_no_weight_is_kept_for_the_backward_pass():
    mapped = MappedLinear(weight(torch.bfloat16), dtype=FLOAT, chunk_rows=4)
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda each: saved.append(each) or each, lambda each: each):
        mapped(torch.ones(2, 8, requires_grad=True))
    assert sum(each.numel() for each in saved) == 0


def test_gradients_of_gradients_are_refused_in_words():
    x = torch.ones(2, 8, requires_grad=True)
    y = MappedLinear(weight(), dtype=FLOAT, chunk_rows=4)(x).square().sum()
    (found,) = torch.autograd.grad(y, x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        found.sum().backward()


def test_each_chunk_is_read_ahead_and_given_back():
    log = []
    numbers = iter(["all", 0, 1, 2])
    mapped = MappedLinear(weight(), dtype=FLOAT, pages_of=lambda _: Log(log, next(numbers)), chunk_rows=4)
    mapped(torch.ones(1, 8))
    assert log == [("ahead", 1), ("release", 0), ("ahead", 2), ("release", 1), ("release", 2)]
    mapped.release()
    assert log[-1] == ("release", "all")


def test_the_only_chunk_is_given_back_too():
    log = []
    mapped = MappedLinear(weight(), dtype=FLOAT, pages_of=lambda _: Log(log, 0), chunk_rows=10)
    x = torch.ones(1, 8, requires_grad=True)
    mapped(x).sum().backward()
    assert log == [("release", 0), ("release", 0)]


def test_all_is_one_chunk_where_nothing_is_given_back_or_converted():
    mapped = MappedLinear(weight(), dtype=FLOAT, chunk_rows=4)
    assert len(list(mapped.chunks(torch.ones(1)))) == 1
    assert len(list(mapped.chunks(torch.ones(1, dtype=torch.bfloat16)))) == 3


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_weight_is_rounded_as_if_it_had_been_converted(dtype):
    mapped = MappedLinear(weight(), dtype=dtype, chunk_rows=4)
    rounded = weight().to(dtype)
    assert torch.equal(mapped.dequantize(), rounded)
    assert torch.equal(mapped.dequantize(dtype=FLOAT), rounded.float())
    assert torch.equal(mapped.dequantize(out=torch.empty(10, 8)), rounded.float())
    assert torch.equal(mapped.borrow(FLOAT), rounded.float())
    assert torch.equal(torch.cat([piece for _, piece in mapped.pieces(FLOAT, 16)]), rounded.float())
    assert torch.allclose(mapped(torch.eye(8)), rounded.float().T)


def test_an_embedding_gives_converted_rows_and_gives_its_pages_back():
    log = []
    mapped = MappedEmbedding(weight(torch.bfloat16), dtype=torch.float32, pages_of=lambda _: Log(log, 0))
    ids = torch.tensor([[3, 3, 9]])
    assert torch.equal(mapped(ids), functional.embedding(ids, weight(torch.bfloat16).float()))
    assert log == [("release", 0)]
    assert mapped.weight.dtype == torch.bfloat16


def test_copies_and_pickles_compute_the_same():
    mapped = MappedLinear(weight(torch.bfloat16), dtype=FLOAT, chunk_rows=4)
    x = torch.ones(2, 8)
    assert torch.equal(copy.deepcopy(mapped)(x), mapped(x))
    assert torch.equal(pickle.loads(pickle.dumps(mapped))(x), mapped(x))
