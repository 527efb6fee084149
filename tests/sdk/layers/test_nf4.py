"""Four-bit layers against QLoRA's definition, at shapes where bitsandbytes' own layer is wrong."""

from statistics import NormalDist

import pytest
import torch
from torch.nn import functional

from edgelora.layers import nf4
from edgelora.layers.blockwise import BlockwiseLinear, quantize_blocks
from edgelora.layers.nf4 import FourBitCodes, dequantize_four_bit, dynamic_map, kernels

NF4 = torch.tensor(
    [
        *(-1.0, -0.6961928, -0.5250731, -0.3949175, -0.2844414, -0.1847734, -0.0910500, 0.0),
        *(0.0795803, 0.1609302, 0.2461123, 0.3379152, 0.4407098, 0.5626170, 0.7229568, 1.0),
    ]
)
MIDPOINTS = torch.tensor(
    [
        *(-0.848096, -0.610633, -0.459995, -0.339679, -0.234607, -0.137912, -0.045525, 0.039790),
        *(0.120255, 0.203521, 0.292014, 0.389313, 0.501663, 0.642787, 0.861478),
    ]
)


def quantized(weight, *, block_size=64, double=True, kind="nf4", compute_dtype=None):
    return BlockwiseLinear(
        quantize_blocks(weight, FourBitCodes(kind), block_size=block_size, double=double),
        tuple(weight.shape),
        format=FourBitCodes(kind),
        block_size=block_size,
        dtype=weight.dtype,
        compute_dtype=compute_dtype,
    )


def naive_nf4(weight, block_size):
    """Nearest codebook entry of each element over its block's largest magnitude, row-major."""
    flat = weight.float().reshape(-1)
    blocks = [block for block in flat.split(block_size)]
    return torch.cat(
        [
            NF4[(block[:, None] / block.abs().max() - NF4).abs().argmin(dim=1)] * block.abs().max()
            for block in blocks
        ]
    ).view(weight.shape)


def indices(layer):
    """Of each weight's level, the first weight of a pair from the high bits."""
    pairs = layer.codes.view(-1)
    return torch.stack([pairs >> 4, pairs & 15], dim=1).view(-1).long()


def relative_error(layer, weight):
    return float((layer.dequantize() - weight).norm() / weight.norm())


def test_levels_are_quantiles_of_a_normal_distribution():
    quantile, end = NormalDist().inv_cdf, 0.9677083
    assert quantile(end) == pytest.approx(1.8481308, abs=2e-7)
    above = [quantile(end + (0.5 - end) * step / 8) for step in range(8)]
    below = [-quantile(end + (0.5 - end) * step / 7) for step in range(7)]
    levels = torch.tensor(sorted([*below, 0.0, *above])) / quantile(end)
    torch.testing.assert_close(kernels.get_4bit_type("nf4", device="cpu"), levels, rtol=0, atol=1e-6)
    torch.testing.assert_close(NF4, levels, rtol=0, atol=1e-6)


def test_codes_change_at_the_published_midpoints_and_weights_are_level_times_scale():
    weight = torch.randn(96, 96, generator=torch.Generator().manual_seed(0))
    layer, blocks = quantized(weight, double=False), weight.view(-1, 64)
    scale = blocks.abs().amax(dim=1, keepdim=True)
    expected = torch.bucketize(blocks / scale, MIDPOINTS)
    assert layer.codes.dtype == torch.uint8 and layer.codes.shape == (96 * 96 // 2, 1)
    assert torch.equal(indices(layer).view(-1, 64), expected)
    assert torch.equal(layer.absmax, scale[:, 0])
    levels = kernels.get_4bit_type("nf4", device="cpu")
    assert torch.equal(layer.dequantize(), (levels[expected] * scale).view(96, 96))


@pytest.mark.parametrize("shape", [(96, 96), (48, 96), (64, 64), (100, 48), (7, 5), (128, 256), (64, 100)])
@pytest.mark.parametrize("block_size", [32, 64, 128])
def test_dequantized_weight_is_the_nearest_code_at_every_shape(shape, block_size):
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    layer = quantized(weight, block_size=block_size, double=False)
    assert torch.allclose(layer.dequantize(), naive_nf4(weight, block_size), atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(96, 96), (48, 100), (128, 256)])
def test_double_quantization_costs_at_most_a_hundredth_more(shape, dtype):
    weight = (0.02 * torch.randn(shape, generator=torch.Generator().manual_seed(0))).to(dtype)
    plain, double = quantized(weight, double=False), quantized(weight)
    assert torch.equal(plain.codes, double.codes)
    norm = weight.float().norm()
    errors = [float((layer.dequantize().float() - weight.float()).norm() / norm) for layer in (plain, double)]
    assert 0.08 < errors[0] < 0.11
    assert errors[1] < errors[0] + 0.01


def test_golden_values_of_the_code():
    layer = quantized(torch.linspace(-1, 1, 64)[None] * 3, double=False)
    counts = torch.bincount(indices(layer), minlength=16).tolist()
    assert counts == [5, 8, 5, 3, 4, 3, 3, 2, 3, 2, 3, 3, 4, 4, 7, 5]
    assert layer.absmax.tolist() == [3.0]
    four = torch.tensor([[1.0, -1.0, 0.5, 0.0]])
    layer = quantized(four, double=False)
    assert layer.codes.view(-1)[:2].tolist() == [240, 199]
    assert torch.allclose(layer.dequantize(), torch.tensor([[1.0, -1.0, 0.4407098, 0.0]]))


def test_the_talks_number_falls_on_its_nearest_level():
    layer = quantized(torch.tensor([[1.0, 0.2121]]), double=False)
    assert layer.dequantize()[0, 1].item() == pytest.approx(0.2461, abs=5e-5)
    assert indices(layer).tolist() == [15, 10]


# In half a unit of the last digit; bitsandbytes' own layer has an error of 0.275 at the second shape.
@pytest.mark.parametrize(("size", "error", "unit"), [(64, 0.09184, 1e-5), (96, 0.093, 1e-3)])
def test_golden_error_of_a_normal_weight(size, error, unit):
    weight = torch.randn(size, size, generator=torch.Generator().manual_seed(0))
    assert relative_error(quantized(weight, double=False), weight) == pytest.approx(error, abs=unit / 2)


def test_golden_error_of_double_quantization():
    weight = 0.02 * torch.randn(128, 256, generator=torch.Generator().manual_seed(0))
    plain, double = quantized(weight, double=False), quantized(weight)
    assert relative_error(plain, weight) == pytest.approx(0.09204, abs=5e-6)
    assert relative_error(double, weight) == pytest.approx(0.09208, abs=5e-6)
    assert (double.scales() - plain.absmax).abs().max() <= 0.006 * plain.absmax.mean()


def test_scales_are_quantized_around_their_mean_in_blocks_of_256():
    weight = torch.randn(256, 128, generator=torch.Generator().manual_seed(0))
    plain, double = quantized(weight, double=False), quantized(weight)
    levels, distances = dynamic_map(torch.device("cpu")), plain.absmax - plain.absmax.mean()
    reach = distances.view(2, 256).abs().amax(dim=1, keepdim=True)
    codes = ((distances.view(2, 256) / reach)[..., None] - levels).abs().argmin(dim=2)
    assert torch.equal(double.absmax.view(2, 256).long(), codes)
    torch.testing.assert_close(double.scales(), (levels[codes] * reach).view(-1) + plain.absmax.mean())


def test_quantizing_again_changes_nothing_without_double_quantization():
    layer = quantized(torch.randn(48, 96, generator=torch.Generator().manual_seed(0)), double=False)
    again = quantized(layer.dequantize(), double=False)
    assert torch.equal(again.codes, layer.codes) and torch.equal(again.absmax, layer.absmax)


def test_product_and_gradient_are_those_of_the_dequantized_weight():
    weight = torch.randn(48, 96, generator=torch.Generator().manual_seed(1))
    layer = quantized(weight)
    x = torch.randn(2, 3, 96, requires_grad=True)
    layer(x).square().sum().backward()
    other = x.detach().clone().requires_grad_()
    functional.linear(other, layer.dequantize()).square().sum().backward()
    assert torch.equal(x.grad, other.grad)


def test_evaluation_changes_neither_bytes_nor_later_gradients():
    """The repack of bitsandbytes' own layer at its first evaluation must not happen here."""
    weight = torch.randn(128, 128, generator=torch.Generator().manual_seed(1)).bfloat16()
    layer = quantized(weight)
    x = torch.randn(4, 128).bfloat16()

    def gradient():
        leaf = x.clone().requires_grad_()
        layer.train()(leaf).sum().backward()
        return leaf.grad

    before, codes = gradient(), layer.codes.clone()
    with torch.no_grad():
        layer.eval()(x)
    assert torch.equal(layer.codes, codes)
    assert torch.equal(gradient(), before)


def test_a_dtype_change_of_the_model_leaves_the_scales_alone():
    weight = torch.randn(64, 64)
    layer = quantized(weight)
    before = layer.dequantize(dtype=torch.float32)
    layer.to(torch.bfloat16)
    assert torch.equal(layer.dequantize(dtype=torch.float32), before)


def test_state_dict_holds_everything():
    weight = torch.randn(64, 96)
    layer = quantized(weight)
    again = BlockwiseLinear(
        layer.state_dict(),
        (64, 96),
        format=FourBitCodes("nf4"),
        block_size=64,
        dtype=torch.float32,
        compute_dtype=None,
    )
    assert torch.equal(again.dequantize(), layer.dequantize())


def test_out_is_written_in_place():
    layer = quantized(torch.randn(64, 96))
    out = torch.empty(64, 96)
    assert layer.dequantize(out=out) is out
    assert torch.equal(out, layer.dequantize())


def by_the_operator(layer, dtype):
    """All codes at once, by bitsandbytes' own operator."""
    state = kernels.QuantState(
        layer.scales(),
        torch.Size([2 * layer.codes.numel()]),
        kernels.get_4bit_type(layer.format.name, device="cpu"),
        layer.block_size,
        layer.format.name,
        dtype,
    )
    flat = kernels.dequantize_4bit(layer.codes, state).view(-1)
    return flat[: layer.out_features * layer.in_features].view(layer.out_features, layer.in_features)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("double", [True, False])
@pytest.mark.parametrize("kind", ["nf4", "fp4"])
@pytest.mark.parametrize("shape", [(96, 96), (7, 5), (64, 100), (1, 2), (1, 1), (300, 128)])
def test_what_is_written_into_a_buffer_is_what_bitsandbytes_returns(shape, kind, double, dtype):
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    layer = quantized(weight, double=double, kind=kind)
    expected = by_the_operator(layer, dtype)
    assert torch.equal(layer.dequantize(out=torch.full(shape, float("nan"), dtype=dtype)), expected)
    assert torch.equal(layer.dequantize(dtype=dtype), expected)
    assert torch.equal(layer.borrow(dtype), expected)


def test_writing_needs_no_memory_but_where_bitsandbytes_lacks_its_kernel(monkeypatch):
    layer = quantized(torch.randn(64, 96, generator=torch.Generator().manual_seed(0)))
    expected, made = layer.dequantize(), []
    plainly = kernels.dequantize_4bit

    def counted(*args, **options):
        made.append(options.get("out"))
        return plainly(*args, **options)

    monkeypatch.setattr(kernels, "dequantize_4bit", counted)
    layer.dequantize(out=torch.empty(64, 96))
    assert made == []
    monkeypatch.setattr(nf4, "lib", object())
    nf4._writer.cache_clear()
    try:
        assert torch.equal(layer.dequantize(out=torch.empty(64, 96)), expected)
    finally:
        nf4._writer.cache_clear()
    assert made


@pytest.mark.parametrize("size", [1, 1000, 10**6])
@pytest.mark.parametrize("double", [True, False])
@pytest.mark.parametrize("shape", [(96, 96), (7, 5), (64, 100), (600, 64)])
def test_pieces_are_the_rows_of_the_weight(shape, double, size):
    layer = quantized(torch.randn(shape, generator=torch.Generator().manual_seed(0)), double=double)
    pieces = [(rows, some) for rows, some in layer.pieces(torch.bfloat16, size)]
    assert torch.equal(torch.cat([some for _, some in pieces]), layer.dequantize(dtype=torch.bfloat16))
    for rows, some in pieces:
        assert torch.equal(some, layer.dequantize(dtype=torch.bfloat16)[rows])
        # As many rows as it takes to start at a block, at most.
        assert some.numel() <= max(size, 64 * shape[1])


def test_fp4_uses_its_own_levels():
    weight = torch.randn(64, 64)
    levels = kernels.get_4bit_type("fp4", device="cpu")
    layer = quantized(weight, kind="fp4", double=False)
    scaled = layer.dequantize().view(-1, 64) / layer.absmax[:, None]
    assert all(torch.isclose(levels, value, atol=1e-6).any() for value in scaled.unique())


def test_compute_dtype_decides_the_product_and_the_input_the_result():
    weight = torch.randn(64, 64)
    layer = quantized(weight, compute_dtype=torch.bfloat16)
    x = torch.randn(2, 64)
    expected = functional.linear(x.bfloat16(), layer.dequantize(dtype=torch.bfloat16)).float()
    assert torch.equal(layer(x), expected)


def test_a_layer_without_memory_computes_shapes():
    layer = quantized(torch.randn(48, 96)).to("meta")
    x = torch.randn(2, 96, device="meta", requires_grad=True)
    layer(x).sum().backward()
    assert x.grad.shape == (2, 96) and layer.dequantize().shape == (48, 96)


@pytest.mark.parametrize("kind", ["nf4", "fp4"])
@pytest.mark.parametrize("block_size", [64, 4096])
@pytest.mark.parametrize("double", [True, False])
def test_a_weight_quantized_in_pieces_has_the_codes_of_one_call(kind, block_size, double):
    torch.manual_seed(0)
    weight = torch.randn(1031, 1101, dtype=torch.bfloat16)  # more than a piece, and no whole number of blocks
    tensors = quantize_blocks(weight, FourBitCodes(kind), block_size=block_size, double=double)
    flat = torch.cat([weight.reshape(-1), weight.new_zeros(1)])
    codes, state = kernels.quantize_4bit(
        flat, blocksize=block_size, compress_statistics=double, quant_type=kind
    )
    assert torch.equal(tensors["codes"], codes) and torch.equal(tensors["absmax"], state.absmax)
    if double:
        assert torch.equal(tensors["absmax_scale"], state.state2.absmax)
        assert torch.equal(tensors["absmax_code"], state.state2.code)
        assert torch.equal(tensors["absmax_offset"], state.offset)


@pytest.mark.parametrize(
    ("codes", "absmax"),
    [
        (torch.zeros(31, dtype=torch.uint8), torch.ones(1)),
        (torch.zeros(32, dtype=torch.uint8), torch.ones(0)),
        (torch.zeros(32, dtype=torch.int8), torch.ones(1)),
        (torch.zeros(32, dtype=torch.uint8), torch.ones(1, dtype=torch.float64)),
    ],
)
def test_the_kernels_are_not_let_past_the_ends_of_what_they_read(codes, absmax):
    with pytest.raises(ValueError, match="are not those of 64 weights in blocks of 64"):
        dequantize_four_bit(codes, absmax, torch.empty(64), kind="nf4", block_size=64)
    with pytest.raises(ValueError, match="on one device"):
        dequantize_four_bit(
            torch.zeros(32, dtype=torch.uint8),
            torch.ones(1),
            torch.empty(64, 2)[:, 0],
            kind="nf4",
            block_size=64,
        )
