"""Full fine-tuning is what any training loop over all weights does, packed and applied as any adapter is."""

import hashlib

import pytest
import torch
from prepared_bases import prepare
from safetensors.torch import load_file
from tiny_models import save_gpt2, save_llama, save_tokenizer, write_rows
from transformers import AutoModelForCausalLM

from edgelora.engine.apply import apply, load_adapted, probe_logits
from edgelora.engine.base import load_base, no_progress_bar
from edgelora.engine.inject import inject, trainable_parameters
from edgelora.engine.merge import merge
from edgelora.engine.whole_model import adapted_model
from edgelora.errors import CombinationError, PlanError
from edgelora.plan import make_plan
from edgelora.recipe import make_recipe
from edgelora.registry import Registry
from edgelora.run import run

REGISTRY = Registry.discover()
SAVE = {"llama": save_llama, "gpt2": save_gpt2}


@pytest.fixture
def recipe(tmp_path):
    """A function that makes a recipe on a tiny base."""

    def make(base="llama", **changes):
        folder = tmp_path / base
        if not folder.exists():
            save_tokenizer(folder)
            SAVE[base](folder)
        document = {
            "derivative": "full",
            "base": str(folder),
            "data": [{"path": str(write_rows(tmp_path / "rows.jsonl", 20))}],
            "train": {"max_steps": 3, "learning_rate": 1e-3, "threads": 1},
            "out": str(tmp_path / "run"),
        }
        return make_recipe(document | changes)

    return make


def stock(folder):
    with no_progress_bar():
        return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


@pytest.mark.parametrize("base", SAVE)
def test_every_weight_learns_and_a_tied_one_once(recipe, base):
    the_recipe = recipe(base)
    plan = make_plan(the_recipe, REGISTRY)
    model = load_base(plan)
    own = {id(each) for each in model.parameters()}
    layers = inject(model, plan)
    learned = trainable_parameters(layers)
    plain = stock(the_recipe.base)
    assert len(learned) == len(list(plain.parameters()))
    assert sum(each.numel() for each in learned.values()) == plain.num_parameters()
    assert not own & {id(each) for each in learned.values()}, "the base's own weights do not learn"
    adapted = adapted_model(model, layers)
    assert adapted.get_output_embeddings().weight is adapted.get_input_embeddings().weight


def test_gradients_are_those_of_the_plain_model(recipe):
    the_recipe = recipe()
    plan = make_plan(the_recipe, REGISTRY)
    model = load_base(plan)
    adapted = adapted_model(model, inject(model, plan))
    plain = stock(the_recipe.base)
    ids = torch.arange(1, 13).view(2, 6)
    for each in (adapted, plain):
        each(input_ids=ids, labels=ids).loss.backward()
    expected = dict(plain.named_parameters())
    for name, weight in adapted.named_parameters():
        assert torch.allclose(weight.grad, expected[name].grad, rtol=0, atol=1e-5), name


@pytest.mark.parametrize("base", SAVE)
def test_trained_packed_applied_and_merged_it_computes_the_same(recipe, tmp_path, base):
    the_recipe = recipe(base)
    weights = tmp_path / base / "model.safetensors"
    before = hashlib.sha256(weights.read_bytes()).hexdigest()
    folder = run(the_recipe, REGISTRY).folder
    assert hashlib.sha256(weights.read_bytes()).hexdigest() == before
    adapted = load_adapted(str(folder), REGISTRY)
    logits = probe_logits(adapted.model)
    plain = stock(the_recipe.base)
    assert not torch.allclose(probe_logits(plain), logits, atol=1e-3)
    layers = apply(plain, str(folder), REGISTRY)
    assert torch.allclose(probe_logits(adapted_model(plain, layers)), logits, rtol=0, atol=1e-5)
    assert not (folder / "adapter_config.json").exists()
    names = load_file(folder / "edgelora.safetensors").keys()
    assert names == dict(stock(the_recipe.base).named_parameters()).keys()
    assert merge(adapted, tmp_path / "merged").largest_difference <= 1e-5
    assert torch.allclose(probe_logits(stock(tmp_path / "merged")), logits, rtol=0, atol=1e-5)


def test_a_quantized_base_is_refused_when_it_is_planned(recipe):
    with pytest.raises(CombinationError, match="trains every weight, and over nf4") as refused:
        make_plan(recipe(quantizer="nf4"), REGISTRY)
    assert "quantizer: none" in refused.value.fix


def test_a_streamed_base_is_refused_when_it_is_planned(recipe):
    with pytest.raises(CombinationError, match=r"cannot work with train\.streamed"):
        make_plan(recipe(train={"streamed": True}), REGISTRY)


def test_weights_that_lie_in_codes_are_refused_where_no_plan_saw_them(recipe, tmp_path):
    plan = make_plan(recipe(), REGISTRY)
    model = load_base(make_plan(recipe(derivative="qlora"), REGISTRY))
    with pytest.raises(PlanError, match=r"q_proj is a \w+, whose weight is in codes"):
        inject(model, plan)


@pytest.mark.parametrize("quantizer", ["none", "nf4"])
def test_a_prepared_base_is_refused_when_it_is_planned(recipe, tmp_path, quantizer):
    recipe()
    folder = prepare(tmp_path / "llama", tmp_path / "prepared", quantizer)
    with pytest.raises(CombinationError, match="prepared base, whose weights stay in its files") as refused:
        make_plan(recipe().model_copy(update={"base": str(folder)}), REGISTRY)
    assert "unquantized model it was made from" in refused.value.fix
