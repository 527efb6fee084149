"""What quantization costs and saves, as its evaluator tells it."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from edgelora import Options
from edgelora.layers import FrozenLinear, LowRankLinear
from edgelora.layers.blockwise import BlockwiseQuantizer
from edgelora.options import BlockwiseOptions
from edgelora.protocols import Site
from edgelora_plugins.qlora.metrics import QuantizationCost

SHAPE = (512, 512)


class Model(nn.ModuleDict):
    """Of a linear ``q``, and a head that is frozen too, as that of a mapped base is."""

    def get_output_embeddings(self):
        return self["head"]


def measure(make, *, with_source=True):
    torch.manual_seed(0)
    linear = nn.Linear(*SHAPE, bias=False)
    nn.init.normal_(linear.weight)
    source = linear.weight.detach().clone()
    layer = LowRankLinear(make(linear), Site("q", 0, "q", 4, 4.0))
    read = {"q": source}.__getitem__ if with_source else None
    run = SimpleNamespace(
        model=Model({"q": layer, "head": FrozenLinear.of(nn.Linear(512, 1000))}),
        layers={"q": layer},
        source=read,
    )
    return QuantizationCost(Options())(run)


def four_bit(double):
    quantizer = BlockwiseQuantizer(BlockwiseOptions(double_quantization=double))
    return lambda linear: quantizer.quantize(linear, "q")


@pytest.mark.parametrize(("double", "bits"), [(False, 4.5), (True, 4.126953125)])
def test_four_bits_cost_what_their_scales_add(double, bits):
    found = measure(four_bit(double))
    # The codebook of the second quantization, 256 floats and an offset, is the layer's own.
    codebook = 8 * 257 * 4 / (SHAPE[0] * SHAPE[1]) if double else 0
    assert found["quantization.bits_per_parameter"].value == pytest.approx(bits + codebook)
    assert found["quantization.relative_error"].value == pytest.approx(0.092, abs=0.002)


def test_an_unquantized_base_has_all_its_bits_and_no_error():
    found = measure(FrozenLinear.of)
    assert found["quantization.bits_per_parameter"].value == 32
    assert found["quantization.relative_error"].value == 0


def test_without_files_of_the_base_the_error_is_left_out():
    assert set(measure(four_bit(True), with_source=False)) == {"quantization.bits_per_parameter"}
