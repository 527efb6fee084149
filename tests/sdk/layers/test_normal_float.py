"""NormalFloat of 2, 3 and 4 bits against its definition and against bitsandbytes' NF4."""

from statistics import NormalDist

import pytest
import torch

from edgelora.layers import normal_float
from edgelora.layers.bit_stream import unpack
from edgelora.layers.blockwise import BlockwiseLinear, BlockwiseQuantizer, quantize_blocks
from edgelora.layers.nf4 import NF4
from edgelora.layers.normal_float import NF2, NF3, NormalFloat, midpoints
from edgelora.options import BlockwiseOptions

CPU = torch.device("cpu")
WIDTHS = pytest.mark.parametrize("bits", [2, 3, 4])
SHAPES = [(96, 96), (48, 96), (64, 48), (24, 100), (7, 5), (1, 1), (3, 3), (128, 256)]
"""Whole blocks, other blocks, short last ones, and bytes that are not full."""


def normal(shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def quantized(weight, format, *, block_size=64, double=True):
    return BlockwiseLinear(
        quantize_blocks(weight, format, block_size=block_size, double=double),
        tuple(weight.shape),
        format=format,
        block_size=block_size,
        dtype=weight.dtype,
        compute_dtype=None,
    )


def naive(weight, levels, block_size):
    """The nearest level to each element over its block's largest magnitude, row-major."""
    blocks = weight.float().reshape(-1).split(block_size)
    found = []
    for block in blocks:
        most = block.abs().max()
        found.append(levels[(block[:, None] / most - levels).abs().argmin(dim=1)] * most)
    return torch.cat(found).view(weight.shape)


def relative_error(layer, weight):
    return float((layer.dequantize() - weight).norm() / weight.norm())


def test_four_bits_have_the_published_levels():
    assert torch.equal(NormalFloat(4).levels(CPU), NF4.levels(CPU))


@WIDTHS
def test_levels_are_quantiles_with_an_exact_zero_and_one_more_above(bits):
    levels, half = NormalFloat(bits).levels(CPU), 2 ** (bits - 1)
    assert len(levels) == 2**bits and torch.equal(levels, levels.sort().values)
    assert (levels < 0).sum() == half - 1 and (levels == 0).sum() == 1 and (levels > 0).sum() == half
    assert levels[0] == -1 and levels[-1] == 1
    quantile, end = NormalDist().inv_cdf, 0.9677083
    above = [quantile(end + (0.5 - end) * step / half) / quantile(end) for step in range(half)]
    assert levels[half:].flip(0).tolist() == pytest.approx(above, abs=1e-6)


def test_golden_levels_of_two_and_three_bits():
    assert NF2.levels(CPU).tolist() == pytest.approx([-1.0, 0.0, 0.3379, 1.0], abs=5e-5)
    three = [-1.0, -0.4786, -0.2171, 0.0, 0.1609, 0.3379, 0.5626, 1.0]
    assert NF3.levels(CPU).tolist() == pytest.approx(three, abs=5e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("double", [True, False])
@pytest.mark.parametrize("shape", SHAPES)
def test_four_bits_are_nf4(shape, double, dtype):
    weight = normal(shape).to(dtype)
    ours, stock = (quantized(weight, each, double=double) for each in (NormalFloat(4), NF4))
    for name, tensor in stock.state_dict().items():
        if name != "codes":
            assert torch.equal(getattr(ours, name), tensor)
    # What fills the last byte stands for nothing.
    codes = [unpack(each.codes.view(-1), 4)[: weight.numel()] for each in (ours, stock)]
    assert torch.equal(*codes)
    for out in (torch.float32, torch.bfloat16, torch.float16):
        assert torch.equal(ours.dequantize(dtype=out), stock.dequantize(dtype=out))


def test_four_bits_are_nf4_over_many_weights():
    weight = 0.02 * normal((1100, 1024))  # more than a piece
    ours, stock = quantized(weight, NormalFloat(4)), quantized(weight, NF4)
    assert torch.equal(ours.codes, stock.codes)
    torch.testing.assert_close(ours.dequantize(), stock.dequantize(), rtol=0, atol=1e-7)


@pytest.mark.parametrize("block_size", [32, 64, 128])
@pytest.mark.parametrize("shape", SHAPES)
@WIDTHS
def test_a_weight_becomes_its_nearest_level_at_every_shape(shape, block_size, bits):
    weight, format = normal(shape), NormalFloat(bits)
    layer = quantized(weight, format, block_size=block_size, double=False)
    torch.testing.assert_close(
        layer.dequantize(), naive(weight, format.levels(CPU), block_size), rtol=0, atol=1e-6
    )
    assert layer.codes.shape == (-(-weight.numel() * bits // 8), 1)


@WIDTHS
def test_codes_change_at_the_midpoints(bits):
    format = NormalFloat(bits)
    bounds = midpoints(format.levels(CPU))
    block = torch.cat([bounds - 1e-6, bounds + 1e-6, torch.ones(1)])[None]
    codes = unpack(quantized(block, format, double=False).codes.view(-1), bits)[: block.numel() - 1]
    assert codes.tolist() == [*range(len(bounds)), *range(1, len(bounds) + 1)]


@pytest.mark.parametrize(("bits", "error"), [(2, 0.5634), (3, 0.2015), (4, 0.0921)])
def test_golden_error_of_a_normal_weight(bits, error):
    layer = quantized(normal((512, 512)), NormalFloat(bits), double=False)
    assert relative_error(layer, normal((512, 512))) == pytest.approx(error, abs=5e-4)


@pytest.mark.parametrize(("bits", "double"), [(2, True), (3, True), (2, False), (3, False)])
def test_a_weight_takes_its_bits_and_its_share_of_the_scales(bits, double):
    weight = normal((512, 512))
    state = quantized(weight, NormalFloat(bits), double=double).state_dict()
    stored = 8 * sum(tensor.nbytes for tensor in state.values()) / weight.numel()
    tables = 8 * 257 * 4 / weight.numel() if double else 0
    assert stored == bits + (8 / 64 + 32 / (64 * 256) if double else 32 / 64) + tables


@WIDTHS
@pytest.mark.parametrize("value", [0.0, 1e-45, 0.3, -2.0])
def test_blocks_of_one_value_stay_finite(value, bits):
    layer = quantized(torch.full((8, 64), value), NormalFloat(bits), double=False)
    torch.testing.assert_close(layer.dequantize(), torch.full((8, 64), value), rtol=1e-6, atol=2e-45)


@WIDTHS
def test_zero_stays_zero(bits):
    weight = normal((16, 64))
    weight[:, ::3] = 0
    assert (quantized(weight, NormalFloat(bits)).dequantize()[:, ::3] == 0).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("bits", [2, 3])
def test_sixteen_bits_are_rounded_once(shape, dtype, bits):
    layer = quantized(normal(shape), NormalFloat(bits))
    exact = layer.dequantize()
    out = torch.full(shape, float("nan"), dtype=dtype)
    assert layer.dequantize(out=out) is out and torch.equal(out, exact.to(dtype))
    assert torch.equal(layer.borrow(dtype), out)


@WIDTHS
def test_a_buffer_may_start_anywhere(bits):
    layer = quantized(normal((24, 100)), NormalFloat(bits))
    for start in range(5):
        memory = torch.full((2405,), float("nan"))
        out = memory[start : start + 2400].view(24, 100)
        assert torch.equal(layer.dequantize(out=out), layer.dequantize())
        assert memory.isnan().sum() == 5


@pytest.mark.parametrize("size", [1, 1000, 10**6])
@pytest.mark.parametrize("shape", [(96, 96), (7, 5), (64, 100), (600, 64)])
@pytest.mark.parametrize("bits", [2, 3])
def test_the_weight_is_the_same_in_pieces(shape, size, bits, monkeypatch):
    layer = quantized(normal(shape), NormalFloat(bits))
    whole = layer.dequantize()
    pieces = [some for _, some in layer.pieces(torch.float32, size)]
    assert torch.equal(torch.cat(pieces), whole)
    monkeypatch.setattr(normal_float, "DECODED_TOGETHER", 4096)
    assert torch.equal(layer.dequantize(), whole)


def test_a_weight_quantized_in_pieces_has_the_codes_of_one(monkeypatch):
    weight = normal((300, 100)).bfloat16()
    whole = quantized(weight, NF3)
    monkeypatch.setattr(normal_float, "PIECE", 4096)
    assert torch.equal(quantized(weight, NF3).codes, whole.codes)


def test_a_layer_without_memory_computes_shapes():
    layer = quantized(normal((48, 96)), NF3).to("meta")
    x = torch.randn(2, 96, device="meta", requires_grad=True)
    layer(x).sum().backward()
    assert x.grad.shape == (2, 96) and layer.dequantize().shape == (48, 96)


def test_tables_are_real_where_models_are_built_without_memory():
    normal_float.normal_levels.cache_clear()
    normal_float._levels_of_words.cache_clear()
    with torch.device("meta"):
        levels, table = NF3.levels(CPU), normal_float._levels_of_words(3, CPU)
    assert not levels.is_meta and not table.is_meta and len(table) == 4096


@pytest.mark.parametrize(("codes", "scales"), [(23, 1), (25, 1), (24, 2), (24, 0)])
def test_tensors_that_do_not_fit_are_refused(codes, scales):
    with pytest.raises(ValueError, match=r"are not those of 64 weights in blocks of 64"):
        NF3.dequantize(torch.zeros(codes, dtype=torch.uint8), torch.ones(scales), torch.empty(64), 64)


@pytest.mark.parametrize(("shape", "double"), [((24, 100), True), ((7, 5), False)])
def test_a_restored_layer_is_checked_by_the_width_of_its_codes(shape, double):
    class ThreeBits(BlockwiseQuantizer):
        format = NF3

    quantizer = ThreeBits(BlockwiseOptions(double_quantization=double))
    linear = torch.nn.Linear(shape[1], shape[0])
    state = quantizer.quantize(linear, "q").state_dict()
    assert {name: (tuple(t.shape), t.dtype) for name, t in state.items() if name != "bias"} == dict(
        quantizer.shapes(shape[0] * shape[1])
    )
    again = quantizer.restore(state, "q", shape, torch.float32)
    assert torch.equal(again.dequantize(), quantizer.quantize(linear, "q").dequantize())
