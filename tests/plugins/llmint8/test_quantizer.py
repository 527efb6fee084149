import pytest
import torch
from torch import nn

from edgelora.errors import ModelError
from edgelora.layers.frozen import PIECE
from edgelora_plugins.llmint8.options import RowInt8Options
from edgelora_plugins.llmint8.quantizer import RowInt8, quantize_rows


def linear(out_features=96, in_features=64, *, dtype=torch.float32, bias=False, seed=0):
    torch.manual_seed(seed)
    made = nn.Linear(in_features, out_features, bias=bias, dtype=dtype)
    return made.requires_grad_(False)


def quantized(of, **options):
    return RowInt8(RowInt8Options(**options)).quantize(of, "up_proj")


def test_the_worked_example_of_absolute_maximum_quantization():
    codes, scale = quantize_rows(torch.tensor([[1.2, -3.1, 0.8, 2.4, 5.4]]))
    assert codes.tolist() == [[28, -73, 19, 56, 127]]
    assert 1 / scale.item() == pytest.approx(23.5, abs=0.05)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_no_weight_moves_by_more_than_half_a_step(dtype):
    source = linear(dtype=dtype)
    layer = quantized(source)
    error = (layer.dequantize(dtype=torch.float32) - source.weight.float()).abs()
    assert (error <= layer.scale[:, None] * (0.5 + 1e-5)).all()
    assert layer.dequantize().dtype == dtype


def test_largest_and_zero_are_exact_and_codes_are_symmetric():
    weight = torch.tensor([[2.0, -2.0, 0.0], [0.0, 0.0, 0.0], [-3.0, 1.0, 0.0]])
    codes, scale = quantize_rows(weight)
    assert codes.tolist() == [[127, -127, 0], [0, 0, 0], [-127, 42, 0]]
    assert scale[1] == 0
    assert torch.equal(quantize_rows(-weight)[0], -codes)


def test_the_smallest_numbers_are_not_divided_by_zero():
    codes, scale = quantize_rows(torch.full((1, 4), 1e-45))
    assert codes.abs().max() <= 127
    assert torch.isfinite(codes.float() * scale).all()


def test_a_weight_costs_eight_bits_and_a_scale_a_row():
    state = quantized(linear(96, 64)).state_dict()
    assert sum(tensor.nbytes for tensor in state.values()) == 96 * 64 + 4 * 96


def test_gaussian_weights_lose_less_than_a_hundredth_of_their_norm():
    """About 0.7 %; in NF4 it is 9 %."""
    torch.manual_seed(0)
    source = linear(256, 256)
    nn.init.normal_(source.weight)
    lost = quantized(source).dequantize() - source.weight
    assert float(lost.norm() / source.weight.norm()) == pytest.approx(0.0066, abs=0.001)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_dequantizing_writes_into_the_memory_it_is_given(dtype):
    layer = quantized(linear())
    out = torch.full((96, 64), float("nan"), dtype=dtype)
    assert layer.dequantize(out=out) is out
    assert torch.equal(out, (layer.codes.float() * layer.scale[:, None]).to(dtype))


def test_large_weights_are_taken_in_pieces_that_make_no_difference():
    source = linear(300, 2 * PIECE // 300)
    layer = quantized(source)
    codes, scale = quantize_rows(source.weight)
    assert torch.equal(layer.codes, codes) and torch.equal(layer.scale, scale)
    whole = codes.float() * scale[:, None]
    assert torch.equal(layer.dequantize(), whole)
    parts = list(layer.pieces(torch.float32, size=PIECE // 2))
    assert len(parts) > 3
    assert all(torch.equal(part, whole[rows]) for rows, part in parts)


def test_a_transposed_weight_is_kept_row_by_row():
    source = linear()
    source.weight = nn.Parameter(source.weight.T.contiguous().T, requires_grad=False)
    assert quantized(source).codes.is_contiguous()


def test_the_dtype_of_the_products_is_a_choice():
    x = torch.randn(3, 64)
    layer = quantized(linear(), compute_dtype="bfloat16")
    expected = x.bfloat16() @ layer.dequantize(dtype=torch.bfloat16).T
    assert torch.equal(layer(x), expected.float())


def test_codes_of_another_shape_than_the_linear_are_refused():
    layer = quantized(linear(4, 4))
    with pytest.raises(ModelError, match=r"up_proj\.codes is \[4, 4\] int8, not \[8, 16\] int8"):
        RowInt8(RowInt8Options()).restore(layer.state_dict(), "up_proj", (8, 16), torch.float32)
