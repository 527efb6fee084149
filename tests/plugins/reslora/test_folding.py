"""What input and middle shortcuts fold into, how far off that is, and that nobody gets it unasked."""

import itertools

import pytest
import torch
from linear_stacks import data, given, moved

from edgelora.errors import ExportUnsupported
from edgelora.layers import merge_into
from edgelora.layers.relay import Relay
from edgelora_plugins.reslora.norms import WINDOW, NormWindow

CARRYING = ["input-shortcut", "middle-shortcut"]


def folded(layer, way, x):
    A, B, scaling = layer.approximate_factors(way)
    return layer.base(x) + scaling * x @ A.T @ B.T


def trained(adapter, **options):
    """Layers that computed two training batches."""
    model, layers = moved(adapter, **options)
    model.train()
    for _ in range(2):
        model(data())
    model.eval()
    return model, layers


def alphas(layers, way):
    """α of each input shortcut: its factor over A is 1 + α."""
    return [float((layer.approximate_factors(way).A / layer.lora_A.detach() - 1).mean()) for layer in layers]


def norm(x):
    return float(x.detach().norm() / (x.numel() / x.shape[-1]) ** 0.5)


def test_an_input_shortcut_by_input_norms_is_scaled_by_their_ratio():
    model, layers = trained("input-shortcut")
    norms = [norm(x) for x, _ in given(layers, model, data())]
    expected = [1.0, *(before / own for before, own in itertools.pairwise(norms))]
    assert alphas(layers, "by_input_norm") == pytest.approx(expected, rel=1e-4)


def test_an_input_shortcut_by_weight_norms_is_scaled_by_those_of_the_two_blocks_before():
    _, layers = moved("input-shortcut")
    norms = [
        float((layer.base.weight + layer.scaling * layer.lora_B @ layer.lora_A).norm()) for layer in layers
    ]
    expected = [1.0, 1.0, norms[0] / norms[1], norms[1] / norms[2]]
    assert alphas(layers, "by_weight_norm") == pytest.approx(expected, rel=1e-4)


def test_with_equal_norms_alpha_is_one_and_exact_where_the_inputs_are_equal():
    _, layers = moved("input-shortcut")
    x = data()
    layers[1].follow((layers[0],), Relay(["q.0", "q.1"], 1))
    layers[0].follow((), layers[1].relay)
    for layer in layers[:2]:
        layer.train()(x)
    A, *_ = layers[1].approximate_factors("by_input_norm")
    torch.testing.assert_close(A, 2 * layers[1].lora_A)
    layers[0].eval()(x)
    y = layers[1].eval()(x)
    torch.testing.assert_close(y, folded(layers[1], "by_input_norm", x), rtol=1e-5, atol=1e-5)
    layers[0](x.flip(-1))
    assert (layers[1](x) - folded(layers[1], "by_input_norm", x)).norm() > 0.1


def test_a_middle_shortcut_by_input_norms_adds_the_factors_before_it():
    model, layers = trained("middle-shortcut", pre_num=2)
    f = [norm(x) for x, _ in given(layers, model, data())]
    A = [layer.lora_A for layer in layers]
    expected = A[3] + f[2] / f[3] * A[2] + f[1] / f[3] * A[1]
    found = layers[3].approximate_factors("by_input_norm").A
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_a_middle_shortcut_by_rank_state_norms_scales_its_own_factors():
    model, layers = trained("middle-shortcut", pre_num=2)
    seen = given(layers, model, data())
    f = [norm(x @ layer.lora_A.T) for layer, (x, _) in zip(layers, seen, strict=True)]
    expected = (1 + f[2] / f[3] + f[1] / f[3]) * layers[3].lora_A
    found = layers[3].approximate_factors("by_rank_state_norm")
    torch.testing.assert_close(found.A, expected, rtol=1e-4, atol=1e-5)
    assert found.B is layers[3].lora_B and found.scaling == layers[3].scaling


@pytest.mark.parametrize("adapter", CARRYING)
def test_the_first_of_a_chain_folds_exactly(adapter):
    model, layers = trained(adapter)
    x, y = given(layers, model, data())[0]
    for way in layers[0].approximations():
        torch.testing.assert_close(folded(layers[0], way, x), y, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("adapter", CARRYING)
def test_folding_is_refused_and_names_the_ways(adapter):
    _, layers = trained(adapter)
    weight = layers[1].base.dequantize()
    with pytest.raises(ExportUnsupported, match="no single weight computes exactly") as caught:
        merge_into(layers[1], weight, "q")
    assert f"--out DIR --approximate {' | '.join(layers[1].approximations())}" in caught.value.fix


@pytest.mark.parametrize("adapter", CARRYING)
def test_what_was_never_trained_has_no_norms_to_fold_by(adapter):
    _, layers = moved(adapter)
    for way in set(layers[1].approximations()) - {"by_weight_norm"}:
        with pytest.raises(ExportUnsupported, match=r"blocks\.\d\.proj has no norms to fold by"):
            layers[1].approximate_factors(way)


def test_a_window_is_the_mean_of_the_last_forwards_per_token():
    window, values = NormWindow(), torch.arange(1.0, WINDOW + 11)
    for value in values:
        window.observe(torch.full((3, 7, 4), float(value)))
    assert float(window.mean("q")) == pytest.approx(2 * float(values[-WINDOW:].mean()), rel=1e-6)
    few = NormWindow()
    few.observe(torch.full((2, 4), 1.0))
    few.observe(torch.full((9, 4), 3.0))
    assert float(few.mean("q")) == pytest.approx(4.0)


def test_a_window_looks_at_training_only():
    window = NormWindow().eval()
    window.observe(torch.ones(2, 4))
    assert not window.values.any()
