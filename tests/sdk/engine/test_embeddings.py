"""Embeddings that target_modules names are adapted as PEFT does it, and merged beside a tied head."""

import json

import peft
import pytest
import torch
from safetensors.torch import load_file
from tiny_models import save_gpt2, save_llama, save_tokenizer
from torch import nn
from transformers import AutoModelForCausalLM

from edgelora.engine.apply import apply, load_adapted, probe_logits, take_off
from edgelora.engine.base import load_base, no_progress_bar
from edgelora.engine.estimating.estimate import estimate
from edgelora.engine.inject import adapter_tensors, inject, trainable_parameters
from edgelora.engine.merge import merge
from edgelora.errors import PlanError
from edgelora.layers import FrozenEmbedding, LowRankEmbedding
from edgelora.run import run

BOTH = {"rank": 4, "target_modules": ["embed_tokens", "q_proj"]}
EMBEDDING = "model.embed_tokens"


def stock(folder):
    with no_progress_bar():
        return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def untied(tmp_path_factory):
    folder = tmp_path_factory.mktemp("untied")
    save_tokenizer(folder)
    save_llama(folder, tie_word_embeddings=False)
    return folder


@pytest.fixture
def trained(recipe, registry):
    """A function that trains an adapter of embeddings and tells its folder."""
    return lambda **changes: run(recipe(**{"adapter": BOTH} | changes), registry).folder


def test_all_linear_takes_no_embedding_and_a_list_may_name_one(plan):
    assert EMBEDDING not in inject(load_base(plan()), plan())
    the_plan = plan(adapter=BOTH)
    model = load_base(the_plan)
    before = probe_logits(model)
    layers = inject(model, the_plan)
    assert next(iter(layers)) == EMBEDDING and isinstance(layers[EMBEDDING], LowRankEmbedding)
    assert torch.equal(probe_logits(model), before)
    assert model.lm_head.weight is layers[EMBEDDING].base.weight
    learned = {name: tuple(each.shape) for name, each in trainable_parameters(layers).items()}
    assert learned[f"{EMBEDDING}.lora_embedding_A"] == (4, 320)
    assert learned[f"{EMBEDDING}.lora_embedding_B"] == (64, 4)
    assert not any(".base." in name for name in adapter_tensors(layers))


def test_an_adapter_of_linears_alone_refuses_an_embedding(plan):
    with pytest.raises(PlanError, match="adapter 'dora' wraps the linears inside the blocks only") as caught:
        plan(derivative="dora", adapter=BOTH)
    assert "WrapsEmbeddings (lora" in caught.value.fix
    # Without data nothing is held against the base's files, which may be elsewhere.
    the_plan = plan(derivative="dora", adapter=BOTH, data=[])
    with pytest.raises(PlanError, match="and adapter 'dora' wraps linears only") as caught:
        inject(load_base(the_plan), the_plan)
    assert (
        f"the embedding {EMBEDDING}," in caught.value.problem and "WrapsEmbeddings (lora" in caught.value.fix
    )


def test_an_embedding_that_is_more_than_a_lookup_is_refused(plan):
    class Scaled(nn.Embedding):
        def forward(self, input):
            return 8 * super().forward(input)

    model = nn.Sequential(Scaled(10, 8), nn.Linear(8, 8))
    with pytest.raises(PlanError, match="0 is a Scaled, which computes more than a lookup"):
        inject(model, plan(adapter={"rank": 2, "target_modules": ["0"]}))


@pytest.mark.parametrize("base", ["tied", "untied"])
def test_trained_packed_applied_and_merged_it_computes_the_same(
    trained, registry, tiny_base, untied, tmp_path, base
):
    place = tiny_base if base == "tied" else untied
    folder = trained(base=str(place))
    adapted = load_adapted(str(folder), registry)
    logits = probe_logits(adapted.model)
    assert adapted.layers[EMBEDDING].lora_embedding_A.any()
    model = stock(place)
    apply(model, str(folder), registry)
    assert torch.equal(probe_logits(model), logits)
    loaded = peft.PeftModel.from_pretrained(stock(place), folder).eval()
    assert float((probe_logits(loaded) - logits).norm() / logits.norm()) <= 1e-5
    merged = merge(adapted, tmp_path / "merged")
    assert merged.largest_difference <= 1e-4
    assert torch.allclose(probe_logits(stock(tmp_path / "merged")), logits, rtol=0, atol=1e-4)


def test_a_head_that_was_tied_keeps_its_weight_when_it_is_merged(trained, registry, tiny_base, tmp_path):
    merge(load_adapted(str(trained()), registry), tmp_path / "merged")
    stored = load_file(tmp_path / "merged" / "model.safetensors")
    assert torch.equal(stored["lm_head.weight"], stock(tiny_base).lm_head.weight)
    assert not torch.equal(stored["lm_head.weight"], stored["model.embed_tokens.weight"])
    assert json.loads((tmp_path / "merged" / "config.json").read_text())["tie_word_embeddings"] is False


def test_the_scaling_of_rslora_holds_for_rows_too(plan):
    the_plan = plan(derivative="rslora", adapter=BOTH | {"alpha": 8})
    layers = inject(load_base(the_plan), the_plan)
    assert {layer.scaling for layer in layers.values()} == {4.0}


def test_an_embedding_left_in_its_file_is_adapted_too(trained, registry, tmp_path):
    expected = probe_logits(load_adapted(str(trained()), registry).model)
    folder = trained(train={"streamed": True}, out=str(tmp_path / "streamed"))
    assert torch.allclose(probe_logits(load_adapted(str(folder), registry).model), expected, atol=1e-4)


def test_taken_off_rows_are_what_they_were(plan, tiny_base):
    the_plan = plan(adapter=BOTH)
    model = stock(tiny_base)
    before = probe_logits(model)
    layers = inject(model, the_plan)
    nn.init.normal_(layers[EMBEDDING].lora_embedding_A)
    assert not torch.equal(probe_logits(model), before)
    take_off(model, layers)
    assert isinstance(model.get_input_embeddings(), FrozenEmbedding)
    assert torch.equal(probe_logits(model), before)


def test_its_cost_is_estimated(plan):
    assert estimate(plan(adapter=BOTH)).trainable == 4 * (320 + 64) + 2 * 4 * (64 + 64)


def test_gpt2_has_two_embeddings(plan, tmp_path):
    save_tokenizer(tmp_path)
    save_gpt2(tmp_path)
    the_plan = plan(base=str(tmp_path), adapter={"rank": 4, "target_modules": ["wte", "wpe", "c_attn"]})
    layers = inject(load_base(the_plan), the_plan)
    assert [name.rpartition(".")[2] for name in layers] == ["wte", "wpe", "c_attn", "c_attn"]
