"""The vector quantizer of Algorithm 1."""

import pytest
import torch
from torch import nn

from edgelora_plugins.yugopuspito2024 import quantizer as module
from edgelora_plugins.yugopuspito2024.options import CodebookOptions
from edgelora_plugins.yugopuspito2024.quantizer import Codebook, k_means, nearest, vectors_of


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def quantize(weight, bias=False, **options):
    linear = nn.Linear(weight.shape[1], weight.shape[0], bias=bias)
    linear.weight.data = weight
    return Codebook(CodebookOptions(**options)).quantize(linear, "q")


def relative_error(layer, weight):
    return float((layer.dequantize() - weight).norm() / weight.norm())


def test_with_one_codeword_every_vector_gets_it():
    assert nearest(normal(50, 4), normal(1, 4, seed=1)).tolist() == [0] * 50


def test_codewords_that_are_the_unit_vectors_give_the_largest_element():
    vectors = normal(200, 8)
    assert torch.equal(nearest(vectors, torch.eye(8)), vectors.argmax(dim=1))


def test_the_error_is_the_distance_to_the_nearest_codeword():
    vectors, codebook = normal(300, 4), normal(16, 4, seed=1)
    found = (vectors - codebook[nearest(vectors, codebook)]).norm(dim=1)
    torch.testing.assert_close(found, torch.cdist(vectors, codebook).min(dim=1).values)


def test_k_means_ends_where_each_codeword_is_the_mean_of_its_vectors():
    vectors = normal(500, 2)
    codebook = k_means(vectors, 8, 200)
    codes = nearest(vectors, codebook)
    means = torch.stack([vectors[codes == code].mean(dim=0) for code in range(8)])
    torch.testing.assert_close(codebook, means, rtol=0, atol=1e-5)


def test_more_iterations_bring_the_codewords_nearer():
    vectors = normal(2000, 4)
    errors = [
        float((vectors - book[nearest(vectors, book)]).norm())
        for book in (k_means(vectors, 32, count) for count in (1, 5, 25))
    ]
    assert errors[0] > errors[1] > errors[2]


@pytest.mark.parametrize("shape", [(64, 48), (32, 96), (24, 100), (7, 5), (1, 1), (128, 256)])
@pytest.mark.parametrize(("size", "count"), [(4, 256), (2, 16), (8, 8), (1, 2)])
def test_any_shape_is_its_nearest_codewords_and_is_restored(shape, size, count):
    weight = normal(*shape)
    layer = quantize(weight, bias=True, vector_size=size, codewords=count, iterations=2)
    vectors = vectors_of(weight, size)
    expected = layer.codebook[nearest(vectors, layer.codebook)].view(-1)[: weight.numel()].view(shape)
    assert torch.equal(layer.dequantize(), expected)
    options = CodebookOptions(vector_size=size, codewords=count)
    again = Codebook(options).restore(layer.state_dict(), "q", shape, torch.float32)
    assert torch.equal(again.dequantize(), expected)
    half = torch.full(shape, float("nan"), dtype=torch.bfloat16)
    assert torch.equal(layer.dequantize(out=half), expected.bfloat16())


def test_a_weight_of_as_few_vectors_as_codewords_is_exact():
    weight = normal(16, 4).repeat(8, 1)
    torch.testing.assert_close(quantize(weight, codewords=16).dequantize(), weight)


@pytest.mark.parametrize(("size", "count", "error"), [(4, 256, 0.32), (2, 16, 0.35), (1, 4, 0.35)])
def test_two_bits_a_weight_lose_less_than_scalar_codes_do(size, count, error):
    """A normal weight; the best scalar codes of 2 bits lose 0.343 (Lloyd and Max), NF2 in blocks 0.56."""
    weight = 0.02 * normal(256, 256)
    layer = quantize(weight, vector_size=size, codewords=count)
    assert relative_error(layer, weight) < error
    assert 8 * layer.codes.nbytes / weight.numel() == 2


def test_the_same_weight_has_the_same_codes_whatever_the_random_state():
    weight = normal(64, 64)
    torch.manual_seed(1)
    first = quantize(weight)
    torch.manual_seed(2)
    second = quantize(weight.clone())
    assert torch.equal(first.codes, second.codes) and torch.equal(first.codebook, second.codebook)


def test_large_weights_are_taken_in_pieces_that_make_no_difference(monkeypatch):
    weight = normal(96, 100)
    whole = quantize(weight, codewords=8)
    monkeypatch.setattr(module, "TOGETHER", 64)
    parts = quantize(weight, codewords=8)
    assert torch.equal(parts.codes, whole.codes) and torch.equal(parts.dequantize(), whole.dequantize())


def test_codewords_are_found_by_a_sample_of_a_large_weight(monkeypatch):
    weight = normal(256, 256)
    whole = quantize(weight, codewords=16)
    monkeypatch.setattr(module, "SAMPLED", 1024)
    assert relative_error(quantize(weight, codewords=16), weight) < 1.05 * relative_error(whole, weight)


def test_a_layer_without_memory_computes_shapes():
    layer = quantize(normal(48, 96)).to("meta")
    x = torch.randn(2, 96, device="meta", requires_grad=True)
    layer(x).sum().backward()
    assert x.grad.shape == (2, 96) and layer.dequantize().shape == (48, 96)
