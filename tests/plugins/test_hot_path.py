"""Every first-party adapter over every quantizer computes the same by its factors as by its own forward."""

import pytest
import torch
from first_party import ADAPTERS, QUANTIZERS, matrix, plan_of
from transformers import LlamaConfig, LlamaForCausalLM

from edgelora.engine.hot_path import use_own_forwards, uses_hot_path
from edgelora.engine.inject import inject, plain_linears

FUSED = [
    name
    for name, part in ADAPTERS.items()
    if {"LowRank", "Additive"} <= set(part.abilities) and "TaskAware" not in part.abilities
]
SITES = ["q_proj", "k_proj", "up_proj", "down_proj"]


def layers_of(adapter, quantizer, *, bias, dtype="float32", compute="auto"):
    """Adapted linears of one block, away from their start."""
    torch.manual_seed(0)
    sizes = {"vocab_size": 64, "hidden_size": 64, "intermediate_size": 100, "num_hidden_layers": 1}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
    model = LlamaForCausalLM(LlamaConfig(**sizes, **heads, attention_bias=bias, mlp_bias=bias))
    options = {} if compute == "auto" else {"compute_dtype": compute}
    made = plan_of("lora", {"name": quantizer, **options}).build("quantizer")
    for name, linear in plain_linears(model).items():
        if bias:
            torch.nn.init.normal_(linear.bias)
        model.set_submodule(name, made.quantize(linear, name))
    model.to(getattr(torch, dtype))
    layers = inject(model, plan_of(adapter, quantizer))
    for layer in layers.values():
        for parameter in layer.parameters():
            if parameter.requires_grad:
                parameter.data.add_(0.1 * torch.randn_like(parameter))
    return {name: layer.train() for name, layer in layers.items() if name.endswith(tuple(SITES))}


def computed(layer, dtype=torch.float32):
    """Output, and gradients of the input and of all that learns."""
    torch.manual_seed(1)
    base = layer.base
    x = torch.randn(2, 3, base.in_features).to(dtype).requires_grad_()
    own = {name: each for name, each in layer.named_parameters() if each.requires_grad}
    y = layer(x)
    gradients = torch.autograd.grad(y, [x, *own.values()], torch.randn_like(y))
    return {"y": y.detach(), **dict(zip(["x", *own], gradients, strict=True))}


def distances(layer, dtype=torch.float32):
    """Relative, between the fused and the own form.

    The gradient of a single number is a sum that cancels: it is measured by that of the matrix with most.
    """
    assert uses_hot_path(layer)
    fused = computed(layer, dtype)
    use_own_forwards({"": layer})
    own = computed(layer, dtype)
    assert {name: each.dtype for name, each in fused.items()} == {name: e.dtype for name, e in own.items()}
    norms = {name: float(each.double().norm()) for name, each in own.items()}
    scales = {name: max(norms.values()) if own[name].numel() == 1 else norms[name] for name in own}
    return {name: float((fused[name].double() - own[name].double()).norm()) / scales[name] for name in own}


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(("adapter", "quantizer"), matrix(FUSED))
def test_forward_and_gradients_are_those_of_the_plain_form(adapter, quantizer, bias):
    for site, layer in layers_of(adapter, quantizer, bias=bias).items():
        assert max(distances(layer).values()) <= 1e-6, site


@pytest.mark.parametrize(("adapter", "quantizer"), matrix(FUSED))
def test_in_sixteen_bits_they_are_within_their_rounding(adapter, quantizer):
    """The fused form rounds once where the plain one rounds twice."""
    for site, layer in layers_of(adapter, quantizer, bias=True, dtype="bfloat16").items():
        assert max(distances(layer, torch.bfloat16).values()) <= 2e-2, site


@pytest.mark.parametrize("quantizer", [name for name in QUANTIZERS if name != "none"])
def test_a_dtype_of_its_own_for_the_base_makes_no_difference(quantizer):
    for site, layer in layers_of("lora", quantizer, bias=True, compute="bfloat16").items():
        assert max(distances(layer).values()) <= 1e-6, site


@pytest.mark.parametrize("adapter", FUSED)
def test_a_scale_that_is_off_by_a_hundredth_is_seen(adapter, monkeypatch):
    layer = layers_of(adapter, "nf4", bias=False)["model.layers.0.self_attn.q_proj"]
    factors = layer.factors
    wrong = lambda layer: factors()._replace(scaling=1.01 * factors().scaling)  # noqa: E731
    with monkeypatch.context() as patch:
        patch.setattr(type(layer), "factors", wrong)
        fused = computed(layer)
    right = computed(layer)
    assert float((fused["y"] - right["y"]).norm() / right["y"].norm()) > 1e-4
    assert float((fused["x"] - right["x"]).norm() / right["x"].norm()) > 1e-4


def test_the_layers_that_keep_their_own_forward_are_those_that_are_no_product_of_factors():
    own = set()
    for adapter in ADAPTERS:
        layers = layers_of(adapter, "none", bias=False)
        if not all(map(uses_hot_path, layers.values())):
            own.add(adapter)
    assert own == set(ADAPTERS) - set(FUSED)


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("quantizer", QUANTIZERS)
def test_gradients_are_the_same_bits_before_and_after_an_evaluation(quantizer, fused):
    layer = layers_of("lora", quantizer, bias=False, dtype="bfloat16")["model.layers.0.self_attn.q_proj"]
    if not fused:
        use_own_forwards({"": layer})
    before = computed(layer, torch.bfloat16)
    with torch.no_grad():
        layer.eval()(torch.randn(2, 3, layer.base.in_features).bfloat16())
    after = computed(layer.train(), torch.bfloat16)
    assert all(torch.equal(before[name], after[name]) for name in before)
