"""Four-bit layers against QLoRA's definition, at shapes where bitsandbytes' own layer is wrong."""

import pytest
import torch
from torch.nn import functional

from edgelora.layers.nf4 import FourBitLinear, kernels, quantize_four_bit

NF4 = torch.tensor(
    [
        *(-1.0, -0.6961928, -0.5250731, -0.3949175, -0.2844414, -0.1847734, -0.0910500, 0.0),
        *(0.0795803, 0.1609302, 0.2461123, 0.3379152, 0.4407098, 0.5626170, 0.7229568, 1.0),
    ]
)


def quantized(weight, *, block_size=64, double=True, kind="nf4", compute_dtype=None):
    return FourBitLinear(
        quantize_four_bit(weight, kind=kind, block_size=block_size, double=double),
        tuple(weight.shape),
        kind=kind,
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


@pytest.mark.parametrize("shape", [(96, 96), (48, 96), (64, 64), (100, 48), (7, 5), (128, 256), (64, 100)])
@pytest.mark.parametrize("block_size", [64, 128])
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
    block = torch.linspace(-1, 1, 64) * 3
    codes = quantized(block[None], double=False).codes.view(-1)
    indices = torch.stack([codes >> 4, codes & 15], dim=1).view(-1)
    assert torch.bincount(indices, minlength=16).tolist() == [5, 8, 5, 3, 4, 3, 3, 2, 3, 2, 3, 3, 4, 4, 7, 5]
    four = torch.tensor([[1.0, -1.0, 0.5, 0.0]])
    layer = quantized(four, double=False)
    assert layer.codes.view(-1)[:2].tolist() == [240, 199]
    assert torch.allclose(layer.dequantize(), torch.tensor([[1.0, -1.0, 0.4407098, 0.0]]))


def test_golden_error_of_a_normal_weight():
    weight = torch.randn(64, 64, generator=torch.Generator().manual_seed(0))
    error = (quantized(weight, double=False).dequantize() - weight).norm() / weight.norm()
    assert abs(float(error) - 0.09184) < 1e-4


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
    again = FourBitLinear(
        layer.state_dict(), (64, 96), kind="nf4", block_size=64, dtype=torch.float32, compute_dtype=None
    )
    assert torch.equal(again.dequantize(), layer.dequantize())


def test_out_is_written_in_place():
    layer = quantized(torch.randn(64, 96))
    out = torch.empty(64, 96)
    assert layer.dequantize(out=out) is out
    assert torch.equal(out, layer.dequantize())


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
