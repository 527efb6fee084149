"""GPT-2's linears keep their weights as (in, out): nobody who quantizes, adapts or merges them need know."""

import json
from dataclasses import replace

import peft
import pytest
import torch
from safetensors.torch import load_file
from tiny_models import save_gpt2, save_tokenizer
from transformers import AutoModelForCausalLM
from transformers.pytorch_utils import Conv1D

from edgelora.engine.apply import apply, load_adapted, probe_logits, take_off
from edgelora.engine.base import load_base, no_progress_bar
from edgelora.engine.estimating.estimate import estimate
from edgelora.engine.inject import inject, trainable_parameters, unreachable_parameters
from edgelora.engine.linears import plain_linear, quantize_linear
from edgelora.engine.merge import merge
from edgelora.engine.past_factors import taken_off
from edgelora.engine.preparing import differing_tensors, prepare_base
from edgelora.engine.source import SourceWeights
from edgelora.layers import FrozenLinear
from edgelora.prepared import prepared_base
from edgelora.run import run

SITE = "transformer.h.0.attn.c_attn"
SQUARE = "transformer.h.1.attn.c_proj"


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gpt2")
    save_tokenizer(folder)
    save_gpt2(folder)
    return folder


@pytest.fixture
def made(plan, gpt2):
    """A function that makes a plan on the tiny GPT-2."""
    return lambda *args, **changes: plan(*args, base=str(gpt2), **changes)


@pytest.fixture(scope="module")
def stock(gpt2):
    with no_progress_bar():
        return AutoModelForCausalLM.from_pretrained(gpt2, dtype=torch.float32).eval()


def stock_logits(folder):
    with no_progress_bar():
        return probe_logits(AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval())


def over(the_plan, folder, train):
    settings = the_plan.recipe.train.model_copy(update=train)
    recipe = the_plan.recipe.model_copy(update={"base": str(folder), "train": settings})
    return replace(the_plan, recipe=recipe)


def moved(layers):
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in trainable_parameters(layers).values():
            parameter.add_(0.1 * torch.randn_like(parameter))


def test_the_base_computes_what_it_computes(made, stock):
    model = load_base(made())
    frozen = {name: part for name, part in model.named_modules() if isinstance(part, FrozenLinear)}
    assert len(frozen) == 8 and all(each.fan_in_fan_out for each in frozen.values())
    assert frozen[SITE].weight.shape == (192, 64)
    for name in (SITE, SQUARE):
        assert torch.equal(frozen[name].weight, stock.get_submodule(name).weight.T)
    assert torch.allclose(probe_logits(model), probe_logits(stock), rtol=0, atol=1e-5)


@pytest.mark.parametrize("quantizer", ["nf4", "nf4-icq", "int8"])
def test_a_quantizer_sees_the_weight_as_out_by_in(made, stock, quantizer):
    the_plan = made(quantizer=quantizer)
    made_by = the_plan.build("quantizer")
    model = load_base(the_plan)
    for name in (SITE, SQUARE):
        linear = plain_linear(stock.get_submodule(name).weight.T.contiguous(), None, fan_in_fan_out=False)
        expected = made_by.quantize(linear, name).dequantize()
        assert torch.equal(model.get_submodule(name).dequantize(), expected)


@pytest.mark.parametrize("derivative", ["lora", "dora", "olora", "qlora", "irqlora"])
def test_training_starts_at_the_base_and_everything_is_reached(made, derivative):
    the_plan = made(derivative=derivative)
    model = load_base(the_plan)
    before = probe_logits(model)
    layers = inject(model, the_plan)
    assert len(layers) == 8 and unreachable_parameters(model, layers) == []
    assert torch.allclose(probe_logits(model.eval()), before, rtol=0, atol=1e-4)


@pytest.mark.parametrize("derivative", ["lora", "dora", "olora", "qlora"])
def test_trained_packed_applied_and_merged_it_computes_the_same(recipe, registry, gpt2, tmp_path, derivative):
    result = run(recipe(base=str(gpt2), derivative=derivative), registry)
    adapted = load_adapted(str(result.folder), registry)
    trained = probe_logits(adapted.model)
    if derivative != "qlora":
        with no_progress_bar():
            model = AutoModelForCausalLM.from_pretrained(gpt2, dtype=torch.float32)
        apply(model, str(result.folder), registry)
        assert torch.allclose(probe_logits(model), trained, rtol=0, atol=1e-5)
    config = json.loads((result.folder / "adapter_config.json").read_text())
    assert config["fan_in_fan_out"] is True
    assert set(config["target_modules"]) == {"c_attn", "c_proj", "c_fc"}
    merged = merge(adapted, tmp_path / "merged")
    assert merged.largest_difference <= 1e-4
    stored = load_file(tmp_path / "merged" / "model.safetensors")
    assert stored[f"{SITE}.weight"].shape == (64, 192)
    assert torch.allclose(stock_logits(tmp_path / "merged"), trained, rtol=0, atol=1e-4)


@pytest.mark.parametrize("derivative", ["lora", "dora"])
def test_stock_peft_computes_the_same(recipe, registry, gpt2, derivative):
    result = run(recipe(base=str(gpt2), derivative=derivative), registry)
    expected = probe_logits(load_adapted(str(result.folder), registry).model)
    with no_progress_bar():
        base = AutoModelForCausalLM.from_pretrained(gpt2, dtype=torch.float32)
    loaded = peft.PeftModel.from_pretrained(base, result.folder).eval()
    assert float((probe_logits(loaded) - expected).norm() / expected.norm()) <= 1e-5


def test_olora_starts_orthonormal_in_the_direction_of_the_outputs(made, stock):
    """PEFT decomposes the weight as it is stored: the square ones then start somewhere else."""
    the_plan = made(derivative="olora")
    layers = inject(load_base(the_plan), the_plan)
    for name in (SITE, SQUARE):
        layer, W = layers[name], stock.get_submodule(name).weight.T
        Q, R = torch.linalg.qr(W)
        assert torch.allclose(layer.lora_B @ layer.lora_A, Q[:, :4] @ R[:4], rtol=0, atol=1e-5)
        assert torch.allclose(layer.lora_B.T @ layer.lora_B, torch.eye(4), rtol=0, atol=1e-5)


def test_the_magnitude_of_dora_is_one_per_output(made, stock):
    the_plan = made(derivative="dora")
    layers = inject(load_base(the_plan), the_plan)
    W = stock.get_submodule(SQUARE).weight
    assert torch.allclose(layers[SQUARE].lora_magnitude_vector, W.norm(dim=0))
    assert not torch.allclose(layers[SQUARE].lora_magnitude_vector, W.norm(dim=1))


def test_taken_off_the_model_is_what_it_was(made, gpt2, stock):
    with no_progress_bar():
        model = AutoModelForCausalLM.from_pretrained(gpt2, dtype=torch.float32)
    layers = inject(model, made())
    moved(layers)
    take_off(model, layers)
    assert isinstance(model.get_submodule(SQUARE), Conv1D)
    assert torch.equal(probe_logits(model.eval()), probe_logits(stock))


@pytest.mark.parametrize("quantizer", ["nf4", "none", "int8"])
def test_a_prepared_base_is_the_one_that_is_quantized_while_read(made, registry, gpt2, tmp_path, quantizer):
    the_plan = made(quantizer=quantizer)
    expected = probe_logits(load_base(the_plan))
    out = tmp_path / "prepared"
    prepare_base(gpt2, out, the_plan.parts["quantizer"])
    assert differing_tensors(out, prepared_base(out), gpt2, registry) == []
    for train in ({}, {"streamed": True}):
        model = load_base(over(the_plan, out, train))
        assert model.get_submodule(SITE).fan_in_fan_out
        assert torch.allclose(probe_logits(model), expected, rtol=0, atol=1e-5)
    if quantizer == "none":
        assert torch.allclose(stock_logits(out), expected, rtol=0, atol=1e-5)


def test_transformers_reads_a_prepared_base_in_nf4(made, gpt2, tmp_path):
    the_plan = made(quantizer="nf4")
    expected = load_base(the_plan)
    prepare_base(gpt2, tmp_path / "prepared", the_plan.parts["quantizer"])
    with no_progress_bar():
        model = AutoModelForCausalLM.from_pretrained(tmp_path / "prepared", dtype=torch.float32)
        model.dequantize()
    for name in (SITE, SQUARE):
        weight = model.get_submodule(name).weight
        assert torch.allclose(weight.float(), expected.get_submodule(name).dequantize(), atol=1e-6)


def test_an_unquantized_base_is_streamed_from_its_own_files(made, gpt2, stock):
    model = load_base(made(train={"streamed": True}))
    assert model.get_submodule(SITE).fan_in_fan_out
    assert torch.allclose(probe_logits(model), probe_logits(stock), rtol=0, atol=1e-5)


def test_the_source_is_given_as_out_by_in(gpt2, stock):
    source = SourceWeights(gpt2)
    for name in (SITE, SQUARE):
        assert torch.equal(source(name), stock.get_submodule(name).weight.T)


@pytest.mark.parametrize("quantizer", ["none", "nf4"])
def test_its_cost_is_estimated(made, quantizer):
    found = estimate(made(quantizer=quantizer))
    assert found.trainable == sum(4 * 2 * (i + o) for i, o in ((64, 192), (64, 64), (64, 256), (256, 64)))


def test_what_the_quantizer_leaves_alone_is_a_view(stock):
    class Shares:
        def quantize(self, linear, name):
            return FrozenLinear.of(linear)

        def quantization_config(self):
            return {}

    conv = stock.get_submodule(SITE)
    assert quantize_linear(Shares(), conv, SITE).weight.data_ptr() == conv.weight.data_ptr()


def test_taken_off_for_a_while_the_adapter_comes_back(made):
    the_plan = made()
    model = load_base(the_plan)
    before = probe_logits(model)
    layers = inject(model, the_plan)
    moved(layers)
    adapted = probe_logits(model.eval())
    with taken_off(model, layers):
        assert torch.equal(probe_logits(model), before)
    assert torch.equal(probe_logits(model), adapted)
