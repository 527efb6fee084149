"""BitFit changes biases and nothing else, and folds into linears that have them."""

import json

import pytest
import torch
from tiny_models import save_gpt2, save_llama, save_tokenizer, write_rows
from torch import nn
from transformers import AutoModelForCausalLM, MistralConfig, MistralForCausalLM

from edgelora.engine.apply import load_adapted, probe_logits
from edgelora.engine.base import load_base, no_progress_bar
from edgelora.engine.inject import inject, trainable_parameters
from edgelora.engine.merge import merge
from edgelora.errors import ExportUnsupported
from edgelora.layers import FrozenLinear, merge_bias_into, merge_into
from edgelora.plan import make_plan
from edgelora.recipe import make_recipe
from edgelora.registry import Registry
from edgelora.run import run
from edgelora_plugins.bitfit.layer import BiasLinear

REGISTRY = Registry.discover()


def save_mistral(folder):
    torch.manual_seed(0)
    sizes = {"vocab_size": 320, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 1}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
    MistralForCausalLM(MistralConfig(**sizes, **heads)).save_pretrained(folder)


SAVE = {"llama": save_llama, "gpt2": save_gpt2, "mistral": save_mistral}


@pytest.fixture
def recipe_on(tmp_path):
    """A function that makes a recipe on a tiny base."""

    def make(base, **adapter):
        folder = tmp_path / base
        save_tokenizer(folder)
        SAVE[base](folder)
        return make_recipe(
            {
                "derivative": "bitfit",
                "base": str(folder),
                "adapter": adapter,
                "data": [{"path": str(write_rows(tmp_path / "rows.jsonl", 40))}],
                "train": {"max_steps": 3, "learning_rate": 0.1, "threads": 1},
                "out": str(tmp_path / "run"),
            }
        )

    return make


def test_what_learns_is_one_number_for_each_output(recipe_on):
    plan = make_plan(recipe_on("llama"), REGISTRY)
    layers = inject(load_base(plan), plan)
    learned = trainable_parameters(layers)
    assert {name.rpartition(".")[2] for name in learned} == {"bias_change"}
    assert [each.shape for each in learned.values()] == [
        (each.base.out_features,) for each in layers.values()
    ]


@pytest.mark.parametrize("bias", [True, False])
def test_the_change_is_the_bias_and_the_weight_stays(bias):
    layer = BiasLinear(FrozenLinear.of(nn.Linear(6, 4, bias=bias)))
    nn.init.normal_(layer.bias_change)
    x, weight = torch.randn(3, 6), layer.base.weight
    before = layer.base.bias if bias else torch.zeros(4)
    folded, folded_bias = merge_into(layer, weight), merge_bias_into(layer, layer.base.bias)
    assert torch.equal(folded, weight)
    assert torch.allclose(folded_bias, before + layer.bias_change)
    assert torch.allclose(layer(x), nn.functional.linear(x, folded, folded_bias), rtol=0, atol=1e-6)


def test_a_change_below_the_precision_of_the_base_is_learned():
    layer = BiasLinear(FrozenLinear.of(nn.Linear(6, 4).bfloat16()))
    layer.bias_change.data.fill_(1e-6)
    assert layer.bias_change.dtype == torch.float32
    assert layer(torch.randn(2, 6).bfloat16()).dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("base", "adapter", "fields"),
    [
        ("llama", {}, {"attention_bias": True, "mlp_bias": True}),
        ("llama", {"target_modules": ["q_proj"]}, {"attention_bias": True, "mlp_bias": False}),
        ("gpt2", {}, {}),
    ],
)
def test_merged_it_is_a_plain_model_whose_linears_have_biases(recipe_on, tmp_path, base, adapter, fields):
    result = run(recipe_on(base, **adapter), REGISTRY)
    assert not (result.folder / "adapter_config.json").exists()
    adapted = load_adapted(str(result.folder), REGISTRY)
    expected = probe_logits(adapted.model)
    merged = merge(adapted, tmp_path / "merged")
    assert merged.largest_difference <= 1e-4
    config = json.loads((tmp_path / "merged" / "config.json").read_text())
    assert {name: config[name] for name in fields} == fields
    with no_progress_bar():
        plain = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype=torch.float32).eval()
    assert torch.allclose(probe_logits(plain), expected, rtol=0, atol=1e-4)


def test_an_architecture_without_places_for_biases_is_not_merged(recipe_on, tmp_path):
    adapted = load_adapted(str(run(recipe_on("mistral"), REGISTRY).folder), REGISTRY)
    with pytest.raises(
        ExportUnsupported, match=r"gives a MistralForCausalLM no place for it \(7 such\)"
    ) as no:
        merge(adapted, tmp_path / "merged")
    assert "--adapter REF" in no.value.fix
    assert not (tmp_path / "merged").exists()
