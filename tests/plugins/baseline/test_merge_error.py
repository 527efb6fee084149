"""How exactly layers fold, as the evaluator tells it."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from edgelora.layers import FrozenLinear, LowRankLinear
from edgelora.protocols import Site
from edgelora_plugins.baseline.merge_error import MergeError
from edgelora_plugins.baseline.options import MergeErrorOptions


class Bent(LowRankLinear):
    def delta(self, x):
        return torch.tanh(super().delta(x))


class Off(nn.Module):
    """Folds into something else than it computes."""

    def __init__(self, base):
        super().__init__()
        self.base = base

    def forward(self, x):
        return self.base(x)

    def merged(self, weight):
        return 1.5 * weight


def measure(layer, told=None):
    routed, told = [], [] if told is None else told
    run = SimpleNamespace(layers={"q": layer}, tasks=("main",), route=routed.append, tell=told.append)
    found = MergeError(MergeErrorOptions())(run)
    assert routed == ["main"] and bool(found) != bool(told)
    return found


class Halved(LowRankLinear):
    """Folds half of what it computes."""

    def merged(self, weight):
        A, B, scaling = self.factors()
        return weight + scaling / 2 * B @ A


def base(dtype=torch.float32):
    torch.manual_seed(0)
    return FrozenLinear.of(nn.Linear(16, 8, bias=False, dtype=dtype))


def filled(kind, deviation=1.0, dtype=torch.float32):
    layer = kind(base(dtype), Site("q", 0, "q", 4, 8.0))
    with torch.no_grad():
        layer.lora_B.normal_(std=deviation)
    return layer


def test_an_exact_fold_differs_by_rounding_only():
    assert 0 < measure(filled(LowRankLinear))["main.merge_error"].value < 1e-6


def test_a_lost_change_is_told_in_full_however_small_it_is():
    assert measure(filled(Halved, deviation=1e-3))["main.merge_error"].value == pytest.approx(0.5, rel=1e-3)


def test_a_16_bit_base_does_not_hide_the_fold():
    layer = filled(LowRankLinear, dtype=torch.bfloat16)
    weight = layer.base
    assert 0 < measure(layer)["main.merge_error"].value < 1e-5
    assert layer.base is weight and layer.training


def test_a_wrong_fold_of_nothing_is_relative_to_the_output():
    assert measure(Off(base()))["main.merge_error"].value == pytest.approx(0.5)


def test_what_cannot_be_folded_is_left_out_and_said():
    told = []
    assert measure(filled(Bent), told) == {}
    assert "factors" in told[0]
