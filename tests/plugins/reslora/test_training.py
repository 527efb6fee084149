"""ResLoRA through the whole job: learning, resuming, publishing and folding."""

import copy
import json
import signal

import peft
import pytest
import torch
from safetensors.torch import load_file
from tiny_models import save_llama, save_tokenizer, write_rows
from transformers import AutoModelForCausalLM

from edgelora.engine.apply import load_adapted
from edgelora.engine.approximating import approximate
from edgelora.engine.checkpointing import enable_checkpointing
from edgelora.engine.merge import merge
from edgelora.engine.report import QuietReporter
from edgelora.errors import CombinationError, ExportUnsupported, Interrupted
from edgelora.layers.relay import checkpoint_contexts
from edgelora.plan import make_plan
from edgelora.recipe import make_recipe
from edgelora.registry import Registry
from edgelora.run import run
from edgelora_cli import run_command

CARRYING = ["reslora", "reslora-ms"]
PROBE = torch.tensor([[72, 101, 108, 108, 111]])


class StopAt(QuietReporter):
    """Sends SIGTERM to this process when a step is reported."""

    def __init__(self, step):
        self.at = step

    def step(self, record):
        if record["step"] == self.at:
            signal.raise_signal(signal.SIGTERM)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny")
    save_tokenizer(folder)
    save_llama(folder, num_hidden_layers=3)
    write_rows(folder / "train.jsonl", 40)
    return folder


@pytest.fixture(scope="module")
def registry():
    return Registry.discover()


@pytest.fixture(scope="module")
def recipe(base):
    """A function that makes a recipe: keywords replace its keys, ``train`` is merged."""

    def make(out, derivative, train=None, **changes):
        settings = {"max_steps": 4, "batch_size": 2, "accumulation": 2, "learning_rate": 1e-2, "threads": 1}
        document = {
            "base": str(base),
            "derivative": derivative,
            "adapter": {"rank": 4, "dropout": 0.1},
            "data": [{"path": str(base / "train.jsonl"), "held_out": 0.2}],
            "evaluators": ["loss", "merge-error"],
        }
        return make_recipe({**document, "out": str(out), "train": settings | (train or {}), **changes})

    return make


@pytest.fixture(scope="module")
def trained(recipe, registry, tmp_path_factory):
    """Results by derivative."""
    folder = tmp_path_factory.mktemp("trained")
    return {name: run(recipe(folder / name, name), registry) for name in (*CARRYING, "reslora-bs")}


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def weights(folder):
    (file,) = folder.glob("*.safetensors")
    return load_file(file)


@pytest.mark.parametrize("derivative", CARRYING)
def test_checkpointing_changes_nothing_down_to_the_norms(recipe, registry, trained, tmp_path, derivative):
    result = run(recipe(tmp_path / "run", derivative, {"gradient_checkpointing": True}), registry)
    plain, saved = weights(trained[derivative].folder), weights(result.folder)
    assert plain.keys() == saved.keys()
    for name, tensor in plain.items():
        torch.testing.assert_close(saved[name], tensor, rtol=1e-6, atol=1e-6)
    # Four steps of two micro-batches, each computed once and once again.
    counted = {int(each.count_nonzero()) for name, each in saved.items() if name.endswith("norms.values")}
    assert counted == {8}


@pytest.mark.parametrize("derivative", CARRYING)
def test_a_resumed_run_is_bitwise_the_uninterrupted_one(recipe, registry, trained, tmp_path, derivative):
    broken = recipe(tmp_path / "run", derivative)
    with pytest.raises(Interrupted):
        run(broken, registry, reporter=StopAt(1))
    resumed = run(broken, registry, resume=True)
    assert same(weights(resumed.folder), weights(trained[derivative].folder))


@pytest.mark.parametrize("derivative", CARRYING)
def test_stock_peft_refuses_what_it_cannot_compute(base, trained, derivative):
    folder = trained[derivative].folder
    assert not (folder / "adapter_config.json").exists()
    with pytest.raises(ValueError, match=r"Can't find 'adapter_config.json'"):
        peft.PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), folder)


def test_stock_peft_computes_block_shortcuts(base, registry, trained):
    folder = trained["reslora-bs"].folder
    stock = peft.PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), folder).eval()
    adapted = load_adapted(str(folder), registry, base=str(base))
    with torch.no_grad():
        torch.testing.assert_close(stock(PROBE).logits, adapted.model(PROBE).logits, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("derivative", CARRYING)
def test_generation_with_a_cache_is_generation_without(base, registry, trained, derivative):
    model = load_adapted(str(trained[derivative].folder), registry, base=str(base)).model
    how = {"max_new_tokens": 12, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
    prompts = torch.cat([PROBE, PROBE.flip(1)])
    cached, whole = (model.generate(input_ids=prompts, use_cache=use, **how) for use in (True, False))
    assert torch.equal(cached, whole)


@pytest.mark.parametrize("derivative", CARRYING)
def test_folding_is_asked_for_and_its_error_told(base, registry, trained, tmp_path, derivative):
    result = trained[derivative]
    load = lambda: load_adapted(str(result.folder), registry, base=str(base))  # noqa: E731
    with pytest.raises(ExportUnsupported, match="no single weight computes exactly"):
        merge(load(), tmp_path / "refused")
    assert not (tmp_path / "refused").exists()
    adapted = load()
    ways = next(iter(adapted.layers.values())).approximations()
    with torch.no_grad():
        expected, alone = (
            adapted.model(PROBE).logits,
            AutoModelForCausalLM.from_pretrained(base)(PROBE).logits,
        )
    for way in ways:
        approximated = load()
        told = approximate(approximated, way)
        merged = merge(approximated, tmp_path / way)
        assert merged.largest_difference < 1e-4  # from what it was approximated by
        with torch.no_grad():
            plain = AutoModelForCausalLM.from_pretrained(merged.folder)(PROBE).logits
        error = float((plain - expected).norm() / (expected - alone).norm())
        assert 0 < told < 1 and 0 < error < 1
        assert 0 < result.measurements[f"main.merge_error_{way}"].value < 1
    assert "main.merge_error" not in result.measurements


def test_the_command_refuses_to_fold_and_tells_the_error_where_it_is_told_to(base, trained, tmp_path, capsys):
    given = ["--adapter", str(trained["reslora"].folder), "--base", str(base)]
    assert run_command(["merge", *given, "--out", str(tmp_path / "merged")]) == ExportUnsupported.exit_code
    told = " ".join(capsys.readouterr().err.split())
    assert "edgelora merge --adapter REF --out DIR --approximate by_input_norm | by_weight_norm" in told
    given += ["--approximate", "by_input_norm", "--out", str(tmp_path / "merged")]
    assert run_command(["merge", *given]) == 0
    told = " ".join(capsys.readouterr().err.split())
    measured = trained["reslora"].measurements["main.merge_error_by_input_norm"]
    assert (
        f"folded by_input_norm: off by {measured.value:.1%} of what the adapter changes, on {measured.n}"
        in told
    )
    assert "edgelora evaluate RECIPE --set base=" in told


def test_where_no_rows_were_held_out_the_probe_is_told_for_what_it_is(
    base, recipe, registry, tmp_path, capsys
):
    data = [{"path": str(base / "train.jsonl")}]
    result = run(recipe(tmp_path / "run", "reslora-ms", data=data), registry)
    assert result.measurements.keys() == {
        f"main.probe_error_by_{way}_norm" for way in ("input", "rank_state")
    }
    adapter = str(result.folder)
    given = ["--adapter", adapter, "--base", str(base), "--approximate", "by_input_norm", "--json"]
    assert run_command(["merge", *given, "--out", str(tmp_path / "merged")]) == 0
    out, err = capsys.readouterr()
    document = json.loads(out)
    assert document["merge_error"] is None and 0 < document["probe_error"] < 2
    told = " ".join(err.split())
    assert "on eight tokens of the vocabulary in a row, which are none" in told
    assert f"edgelora evaluate RECIPE --adapter {adapter} --set evaluators=[merge-error]" in told


def test_a_way_that_is_none_is_refused_with_those_there_are(base, registry, trained):
    adapted = load_adapted(str(trained["reslora"].folder), registry, base=str(base))
    with pytest.raises(ExportUnsupported, match="is not approximated by_magic") as caught:
        approximate(adapted, "by_magic")
    assert caught.value.fix == "choose one of: by_input_norm, by_weight_norm"
    adapted = load_adapted(str(trained["reslora-bs"].folder), registry, base=str(base))
    with pytest.raises(ExportUnsupported, match="is not approximated by_input_norm") as caught:
        approximate(adapted, "by_input_norm")
    assert "needs no approximation" in caught.value.fix


@pytest.mark.parametrize("derivative", CARRYING)
def test_exporting_names_the_way_to_fold_it(base, trained, tmp_path, derivative, capsys):
    given = [str(trained[derivative].folder), "--base", str(base), "--out", str(tmp_path / "out")]
    assert run_command(["export", "peft", *given]) == ExportUnsupported.exit_code
    assert "--approximate by_input_norm | by_" in " ".join(capsys.readouterr().err.split())


def test_block_shortcuts_fold_without_an_error(base, registry, trained, tmp_path):
    result = trained["reslora-bs"]
    merged = merge(load_adapted(str(result.folder), registry, base=str(base)), tmp_path / "merged")
    assert merged.largest_difference < 1e-4
    assert result.measurements["main.merge_error"].value < 1e-5


@pytest.mark.parametrize("derivative", CARRYING)
def test_a_streamed_base_is_refused_when_it_is_planned(recipe, registry, tmp_path, derivative):
    with pytest.raises(CombinationError, match=r"cannot work with train.streamed: .*\(CrossSite\)"):
        make_plan(recipe(tmp_path, derivative, {"streamed": True}), registry)


@pytest.mark.parametrize("derivative", CARRYING)
def test_checkpointing_by_others_is_refused_unless_it_is_told_how(base, registry, trained, derivative):
    adapted = load_adapted(str(trained[derivative].folder), registry, base=str(base))
    loss = lambda model: model(PROBE, labels=PROBE, use_cache=False).loss  # noqa: E731

    def gradients(enable):
        model = copy.deepcopy(adapted.model).train()
        for layer in model.modules():
            if isinstance(layer, torch.nn.Dropout):
                layer.p = 0.0
        enable(model)
        loss(model).backward()
        return {name: each.grad for name, each in model.named_parameters() if each.grad is not None}

    how = {"use_reentrant": False}
    with pytest.raises(CombinationError, match="was not computed just before it"):
        gradients(lambda model: model.gradient_checkpointing_enable(how))
    plain = gradients(lambda model: None)
    for enable in (
        enable_checkpointing,
        lambda model: model.gradient_checkpointing_enable({**how, "context_fn": checkpoint_contexts}),
    ):
        found = gradients(enable)
        assert found.keys() == plain.keys()
        for name, gradient in plain.items():
            torch.testing.assert_close(found[name], gradient, rtol=1e-6, atol=1e-6)
