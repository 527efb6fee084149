"""What every first-party adapter keeps in numbers, in a two-layer Llama and over every quantizer."""

import pytest
import torch
from first_party import ADAPTERS, matrix, plan_of
from transformers import LlamaConfig, LlamaForCausalLM

from edgelora.engine.inject import inject, plain_linears, trainable_parameters
from edgelora.layers import FrozenLinear, merge_bias_into, merge_into

STARTING_AT_THE_BASE = [name for name, part in ADAPTERS.items() if not part.starts_elsewhere]
FOLDING = [name for name, part in ADAPTERS.items() if {"LowRank", "Mergeable"} & set(part.abilities)]


def base_of(quantizer):
    """The model, its linears quantized."""
    torch.manual_seed(0)
    sizes = {"vocab_size": 64, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2}
    model = LlamaForCausalLM(LlamaConfig(**sizes, num_attention_heads=4, num_key_value_heads=4)).eval()
    part = plan_of("lora", quantizer).build("quantizer")
    for name, linear in plain_linears(model).items():
        model.set_submodule(name, part.quantize(linear, name))
    return model


def adapted(adapter, quantizer, **settings):
    model = base_of(quantizer)
    torch.manual_seed(2)
    return model, inject(model, plan_of(adapter, quantizer, **settings))


@torch.no_grad()
def moved(adapter, quantizer):
    """With no parameter where training starts."""
    model, layers = adapted(adapter, quantizer)
    for parameter in trainable_parameters(layers).values():
        parameter.add_(0.2 * torch.randn_like(parameter))
    return model, layers


@torch.no_grad()
def logits(model):
    token_ids = torch.randint(64, (2, 8), generator=torch.Generator().manual_seed(1))
    return model(token_ids).logits


def fold(model, layers):
    for site, layer in layers.items():
        (base,) = (part for part in layer.modules() if isinstance(part, FrozenLinear))
        weight = merge_into(layer, base.dequantize(dtype=torch.float32), site)
        bias = merge_bias_into(layer, base.bias)
        model.set_submodule(site, FrozenLinear(weight, bias, base.in_features, base.out_features))


@pytest.mark.parametrize(("adapter", "quantizer"), matrix(STARTING_AT_THE_BASE))
def test_training_starts_within_a_millionth_of_the_base(adapter, quantizer):
    model, _ = adapted(adapter, quantizer)
    assert (logits(model) - logits(base_of(quantizer))).abs().max() <= 1e-6


@pytest.mark.parametrize(("adapter", "quantizer"), matrix(FOLDING))
def test_a_folded_model_computes_the_same_within_a_hundred_thousandth(adapter, quantizer):
    model, layers = moved(adapter, quantizer)
    unfolded, base = logits(model), logits(base_of(quantizer))
    fold(model, layers)
    largest = unfolded.abs().max()
    assert (unfolded - base).abs().max() > 0.05 * largest
    folded = logits(model)
    apart = (folded - unfolded).abs().max()
    if apart > 1e-5 * largest:
        # Two blocks of random weights can make more of what both round, each another way: float64 is between.
        exact = logits(model.double())
        apart = max((folded - exact).abs().max(), (unfolded - exact).abs().max())
    assert apart <= 1e-5 * largest


@pytest.mark.parametrize(("adapter", "quantizer"), matrix(ADAPTERS))
def test_training_computes_after_an_evaluation_what_it_did_before(adapter, quantizer):
    # bitsandbytes' own layer repacks its codes at its first evaluation, on CPUs with AVX512-BF16.
    model, layers = moved(adapter, quantizer)
    weights = {site: layer.base.dequantize().clone() for site, layer in layers.items()}
    before = logits(model.train())
    evaluated = logits(model.eval())
    assert torch.equal(logits(model.train()), before)
    torch.testing.assert_close(evaluated, before, rtol=1e-6, atol=1e-6)
    assert all(torch.equal(layer.base.dequantize(), weights[site]) for site, layer in layers.items())


@pytest.mark.parametrize("adapter", ADAPTERS)
@pytest.mark.parametrize("adapter_dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_outputs_keep_the_dtype_of_the_base(adapter, adapter_dtype, dtype):
    model, layers = adapted(adapter, "none", adapter_dtype=adapter_dtype)
    for part in model.modules():
        if isinstance(part, FrozenLinear | torch.nn.Embedding):
            part.to(dtype)
    for parameter in trainable_parameters(layers).values():
        # Magnitudes and other vectors keep the digits they need.
        expected = getattr(torch, adapter_dtype) if parameter.dim() > 1 else torch.float32
        assert parameter.dtype == expected
    for layer in layers.values():
        x = torch.randn(2, 3, layer.base.in_features, dtype=dtype)
        assert layer(x).dtype == dtype
