"""Methods of PEFT go through whole runs: a few of each kind; all of them are in tests/acceptance."""

import pytest
import torch
from peft import get_peft_model
from peft_runs import config_of, file_names, logits_afresh, publish, recipe_of, save_base, stock_logits, train
from safetensors.torch import load_file

from edgelora.engine.apply import load_adapted
from edgelora.engine.base import load_base, load_tokenizer
from edgelora.engine.estimating.estimate import estimate
from edgelora.engine.inject import inject, trainable_parameters
from edgelora.engine.report import QuietReporter
from edgelora.errors import CombinationError, Interrupted, PlanError
from edgelora.layers.generate import greedy
from edgelora.plan import make_plan
from edgelora.registry import Registry
from edgelora.run import run
from edgelora_plugins.peft import adapter

FEW = ["ia3", "p-tuning", "prefix-tuning", "prompt-tuning", "vera"]


@pytest.fixture(scope="module")
def registry():
    return Registry.discover()


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("peft")


@pytest.fixture(scope="module")
def base_and_rows(place):
    return save_base(place)


@pytest.fixture
def bare(registry, tmp_path, base_and_rows):
    """A plan of IA3, and its base."""
    plan = make_plan(recipe_of("ia3", *base_and_rows, tmp_path / "run"), registry)
    return plan, load_base(plan)


@pytest.fixture(scope="module")
def trained(registry, place, base_and_rows):
    """Folder and logits by method; vera also over a quantized base."""
    made = {name: train(recipe_of(name, *base_and_rows, place / name), registry) for name in FEW}
    quantized = recipe_of("vera", *base_and_rows, place / "vera-nf4", quantizer="nf4")
    return made | {"vera-nf4": train(quantized, registry)}


@pytest.fixture(scope="module")
def afresh(trained, place, base_and_rows):
    """Logits of what was pushed and pulled, in a fresh process, by method."""
    store = f"file://{place / 'mirror'}"
    pulled = {name: publish(folder, name, store) for name, (folder, _) in trained.items()}
    return logits_afresh(pulled, base_and_rows[0], place)


@pytest.mark.parametrize("name", [*FEW, "vera-nf4"])
def test_pulled_and_applied_in_a_fresh_process_it_computes_the_same(trained, afresh, name):
    torch.testing.assert_close(afresh[name], trained[name][1], atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", FEW)
def test_stock_peft_computes_the_same_from_what_is_published(trained, base_and_rows, name):
    folder, logits = trained[name]
    torch.testing.assert_close(stock_logits(folder, base_and_rows[0]), logits, atol=1e-5, rtol=0)
    assert config_of(folder)["base_model_name_or_path"] == "base"


def test_over_a_quantized_base_it_is_published_in_its_own_form(trained):
    assert file_names(trained["vera-nf4"][0]) == ["README.md", "edgelora.json", "edgelora.safetensors"]


def test_an_encoder_of_virtual_tokens_is_resumed_bitwise(registry, tmp_path, base_and_rows):
    class StopAt1(QuietReporter):
        def step(self, record):
            if record["step"] == 1:
                import signal

                signal.raise_signal(signal.SIGTERM)

    whole = run(recipe_of("p-tuning", *base_and_rows, tmp_path / "a"), registry)
    broken = recipe_of("p-tuning", *base_and_rows, tmp_path / "b")
    with pytest.raises(Interrupted):
        run(broken, registry, reporter=StopAt1())
    resumed = run(broken, registry, resume=True)
    first, second = (load_file(each.folder / "adapter_model.safetensors") for each in (whole, resumed))
    assert torch.equal(first["prompt_embeddings"], second["prompt_embeddings"])


@pytest.mark.parametrize("name", ["prompt-tuning", "prefix-tuning"])
def test_rows_are_answered_in_a_padded_batch_as_alone(trained, registry, base_and_rows, name):
    adapted = load_adapted(str(trained[name][0]), registry, base=str(base_and_rows[0]))
    tokenizer = load_tokenizer(base_and_rows[0])
    prompts = ["say x", "say xxxxxxxxxxxxxxxxx", "abcdefg"]
    together = greedy(adapted.model, tokenizer, prompts, max_new_tokens=8)
    alone = [greedy(adapted.model, tokenizer, [each], max_new_tokens=8)[0] for each in prompts]
    assert together == alone


@pytest.mark.parametrize(
    "name", ["boft", "ia3", "prefix-tuning", "prompt-tuning", "vblora", "vera", "waveft"]
)
def test_its_memory_is_estimated_on_shapes(registry, tmp_path, base_and_rows, name):
    plan = make_plan(recipe_of(name, *base_and_rows, tmp_path / "run"), registry)
    assert estimate(plan).trainable == sum(
        each.numel() for each in trainable_parameters(inject(load_base(plan), plan)).values()
    )


@pytest.mark.parametrize("start", ["olora", "pissa"])
def test_a_start_that_changes_the_base_is_refused(registry, tmp_path, base_and_rows, start):
    adapter = {"r": 4, "init_lora_weights": start}
    recipe = recipe_of("lora", *base_and_rows, tmp_path / "run", adapter=adapter)
    with pytest.raises(CombinationError, match=f"cannot work with init_lora_weights '{start}'"):
        run(recipe, registry)
    without_data = make_plan(recipe.model_copy(update={"data": ()}), registry)
    with pytest.raises(PlanError, match=r"PEFT starts by changing the base, such as model\.layers"):
        inject(load_base(without_data), without_data)


def test_weights_of_the_base_that_would_learn_are_refused_whatever_option_did_it(monkeypatch, bare):
    def learning(model, config):
        tuned = get_peft_model(model, config)
        model.model.norm.weight.requires_grad_(True)
        return tuned

    monkeypatch.setattr(adapter, "get_peft_model", learning)
    plan, model = bare
    modules = list(model.modules())
    with pytest.raises(PlanError, match=r"PEFT trains the base itself, such as model\.norm\.weight"):
        inject(model, plan)
    assert not model.model.norm.weight.requires_grad and list(model.modules()) == modules


@pytest.mark.parametrize("changed", ["model.embed_tokens.weight", "model.rotary_emb.inv_freq"])
def test_a_change_is_seen_wherever_in_the_base_it_is(monkeypatch, bare, changed):
    plan, model = bare
    tensor = dict([*model.named_parameters(), *model.named_buffers()])[changed]

    def changing(model, config):
        with torch.no_grad():
            tensor[len(tensor) // 2 :] += 1
        return get_peft_model(model, config)

    monkeypatch.setattr(adapter, "get_peft_model", changing)
    with pytest.raises(PlanError, match=f"PEFT starts by changing the base, such as {changed}"):
        inject(model, plan)
