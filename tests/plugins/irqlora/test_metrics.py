"""Information in the codes of a base, as its evaluator tells it."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from edgelora.layers import FrozenLinear
from edgelora_plugins.irqlora.metrics import CodeEntropy
from edgelora_plugins.irqlora.options import CalibrationOptions, EntropyOptions
from edgelora_plugins.irqlora.quantizer import (
    CalibratedNormalFloat2,
    CalibratedNormalFloat3,
    CalibratedNormalFloat4,
)


def measure(layer, told=None):
    told = [] if told is None else told
    run = SimpleNamespace(model=nn.ModuleDict({"q": layer}), tell=told.append)
    return CodeEntropy(EntropyOptions())(run)


@pytest.mark.parametrize(
    ("kind", "low", "most"),
    [(CalibratedNormalFloat2, 1.4, 2), (CalibratedNormalFloat3, 2.6, 3), (CalibratedNormalFloat4, 3.6, 4)],
)
def test_no_code_holds_more_than_its_width(kind, low, most):
    torch.manual_seed(0)
    layer = kind(CalibrationOptions(search_steps=10)).quantize(nn.Linear(100, 64), "q")
    found = measure(layer)["quantization.entropy"]
    # 6400 weights are 100 whole blocks of 64.
    assert found.n == 100
    assert low < found.low < found.value < found.high <= most


def test_a_base_without_codes_in_blocks_is_not_measured():
    told = []
    assert measure(FrozenLinear.of(nn.Linear(64, 64)), told) == {}
    assert told == ["no linear has codes in blocks, as those of nf4, fp4 and nf2 have"]
