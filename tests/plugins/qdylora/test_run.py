"""Runs of DyLoRA and QDyLoRA: one rank for each step, bitwise resumption, and an adapter for every rank."""

import itertools
import json
import shutil

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from tiny_models import save_llama, save_tokenizer, write_rows
from transformers import AutoModelForCausalLM

from edgelora.engine.apply import load_adapted
from edgelora.engine.merge import merge
from edgelora.errors import PlanError
from edgelora.layers.nested import NestedLowRankLinear
from edgelora.recipe import make_recipe
from edgelora.registry import Registry
from edgelora.run import run
from edgelora_cli import run_command
from edgelora_plugins.qdylora.metrics import powers_of_two
from edgelora_plugins.qdylora.options import SweepOptions
from edgelora_plugins.qdylora.schedule import NestedRanks

RANK, ALPHA = 6, 12
PROBE = torch.arange(40).view(2, 20)


@pytest.fixture(scope="module")
def registry():
    return Registry.discover()


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("base")
    save_tokenizer(folder)
    save_llama(folder)
    write_rows(folder / "train.jsonl", 60)
    return folder


@pytest.fixture(scope="module")
def make(base):
    """A function that makes a recipe: keywords replace its keys, ``train`` is merged."""

    def recipe(out, train=None, **changes):
        settings = {"max_steps": 6, "batch_size": 2, "accumulation": 2, "learning_rate": 1e-2, "threads": 1}
        document = {
            "base": str(base),
            "derivative": "qdylora",
            "adapter": {"rank": RANK, "alpha": ALPHA},
            "data": [{"path": str(base / "train.jsonl"), "held_out": 0.2}],
            "evaluators": [{"name": "rank-sweep", "ranks": [1, 3, RANK]}, "loss"],
            "train": settings | (train or {}),
            "out": str(out),
        }
        return make_recipe(document | changes)

    return recipe


@pytest.fixture(scope="module")
def trained(make, registry, tmp_path_factory):
    """What a run of a few steps published."""
    return run(make(tmp_path_factory.mktemp("run") / "run"), registry)


def weights(result):
    (file,) = result.folder.glob("*.safetensors")
    return file.read_bytes()


@pytest.mark.parametrize("checkpointing", [False, True])
def test_all_micro_batches_of_a_step_see_one_rank_and_steps_see_several(
    make, registry, tmp_path, monkeypatch, checkpointing
):
    seen, ranks_of_step = [], []
    before_forward, factors = NestedRanks.before_forward, NestedLowRankLinear.factors

    def drawn(self, step):
        ranks_of_step.append((self.rank_of(step), len(seen)))
        before_forward(self, step)

    monkeypatch.setattr(NestedRanks, "before_forward", drawn)
    monkeypatch.setattr(NestedLowRankLinear, "factors", lambda self: seen.append(self.rank) or factors(self))
    train = {"gradient_checkpointing": checkpointing, "max_steps": 5}
    run(make(tmp_path / "run", train, evaluators=[]), registry)
    ends = [start for _, start in ranks_of_step[1:]]
    for (rank, start), end in zip(ranks_of_step, ends, strict=False):
        assert set(seen[start:end]) == {rank}
    # 14 sites, 2 micro-batches, each again under checkpointing; in the first step the head is tried too.
    assert ends[1] - ends[0] == 14 * 2 * (2 if checkpointing else 1)
    assert len({rank for rank, _ in ranks_of_step}) > 1


@pytest.mark.parametrize("derivative", ["dylora", "qdylora"])
@pytest.mark.parametrize("scheduler", [{}, {"frozen": True}])
def test_an_interrupted_run_resumes_to_the_same_bytes(
    make, registry, tmp_path, monkeypatch, derivative, scheduler
):
    parts = {"derivative": derivative, "rank_scheduler": scheduler, "evaluators": ["loss"]}
    train = {"save_every": 2, "evaluate_every": 3}
    whole = run(make(tmp_path / "whole", train, **parts), registry)
    after_update, count = NestedRanks.after_update, itertools.count()

    def killed(self, step):
        if next(count) == 4:
            raise MemoryError
        after_update(self, step)

    with monkeypatch.context() as patch:
        patch.setattr(NestedRanks, "after_update", killed)
        with pytest.raises(MemoryError):
            run(make(tmp_path / "broken", train, **parts), registry)
    resumed = run(make(tmp_path / "broken", train, **parts), registry, resume=True)
    assert weights(resumed) == weights(whole)
    assert resumed.measurements == whole.measurements


def test_evaluation_and_what_is_published_are_at_the_largest_rank(trained):
    config = json.loads((trained.folder / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["rank_pattern"]) == (RANK, ALPHA, {})
    assert trained.manifest.components[0].config["nested"] is True
    found = trained.measurements
    assert found["main.loss"] == found[f"main.loss@{RANK}"]
    assert len({found[f"main.loss@{rank}"].value for rank in (1, 3, RANK)}) == 3


def test_a_chosen_rank_is_measured_and_published_as_its_first_components(make, registry, trained, tmp_path):
    adapter = {"rank": RANK, "alpha": ALPHA, "published_rank": 3}
    chosen = run(make(tmp_path / "run", adapter=adapter), registry)
    config = json.loads((chosen.folder / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"]) == (3, ALPHA)
    # What is published plays no part in training.
    whole, cut = (load_file(each.folder / "adapter_model.safetensors") for each in (trained, chosen))
    for name, tensor in cut.items():
        first = whole[name][:3] if "lora_A" in name else whole[name][:, :3]
        assert torch.equal(tensor, first)
    assert chosen.measurements["main.loss"] == chosen.measurements["main.loss@3"]
    at_three = [each.measurements["main.loss@3"].value for each in (chosen, trained)]
    assert at_three[0] == pytest.approx(at_three[1])


def sliced(folder, to, b):
    """What anybody can make of a nested adapter with four lines: LoRA of rank b."""
    tensors = load_file(folder / "adapter_model.safetensors")
    shutil.copytree(folder, to)
    cut = {n: (t[:b] if "lora_A" in n else t[:, :b]).contiguous() for n, t in tensors.items()}
    save_file(cut, to / "adapter_model.safetensors")
    config = json.loads((folder / "adapter_config.json").read_text()) | {"r": b}
    (to / "adapter_config.json").write_text(json.dumps(config))
    return to


@pytest.mark.parametrize("b", range(1, RANK + 1))
def test_applied_at_a_rank_it_computes_what_stock_peft_does_with_the_slices(
    trained, base, registry, tmp_path, b
):
    from peft import PeftModel

    adapted = load_adapted(str(trained.folder), registry, base=str(base))
    adapted.set_rank(b)
    reference = AutoModelForCausalLM.from_pretrained(base)
    for site, layer in adapted.layers.items():
        reference.get_submodule(site).weight.data = layer.base.dequantize(dtype=torch.float32)
    bare = reference(PROBE).logits.detach()
    stock = PeftModel.from_pretrained(reference, str(sliced(trained.folder, tmp_path / "cut", b)))
    computed = adapted.model(PROBE).logits.detach()
    assert (computed - bare).abs().max() > 1e-2
    torch.testing.assert_close(computed, stock(PROBE).logits.detach(), rtol=1e-5, atol=1e-5)


def test_where_its_plugin_is_missing_it_still_works_at_every_rank(trained, base, monkeypatch):
    monkeypatch.setenv("EDGELORA_BLOCK", "qdylora")
    adapted = load_adapted(str(trained.folder), Registry.discover(), base=str(base))
    outputs = []
    for b in (1, RANK):
        adapted.set_rank(b)
        outputs.append(adapted.model(PROBE).logits.detach())
    assert not torch.equal(*outputs)


def test_the_command_line_answers_and_measures_at_a_rank(trained, base, make, capsys, tmp_path, registry):
    where = ["--adapter", str(trained.folder)]
    document = yaml.safe_dump(
        {
            "base": str(base),
            "derivative": "qdylora",
            "data": [{"path": str(base / "train.jsonl"), "held_out": 0.2}],
            "evaluators": ["loss"],
        }
    )
    (tmp_path / "recipe.yaml").write_text(document)
    recipe = str(tmp_path / "recipe.yaml")
    assert run_command(["evaluate", recipe, *where, "--rank", "3", "--json", "--threads", "1"]) == 0
    measured = json.loads(capsys.readouterr().out)["measurements"]["main.loss"]["value"]
    assert measured == pytest.approx(trained.measurements["main.loss@3"].value, rel=1e-5)
    question = ["say xxx", "--base", str(base), "--max-new-tokens", "4", "--json", "--threads", "1"]
    assert run_command(["generate", *where, *question, "--rank", "1"]) == 0
    capsys.readouterr()
    assert run_command(["generate", *where, *question, "--rank", str(RANK + 1)]) == 3
    assert f"choose a rank from 1 to {RANK}" in capsys.readouterr().out
    for command in (["generate", "say x"], ["evaluate", recipe]):
        assert run_command([*command, "--rank", "1"]) == 2
        assert "--rank is of an adapter: name it with --adapter" in capsys.readouterr().err


def test_merging_at_a_rank_folds_that_rank(trained, base, registry, tmp_path):
    adapted = load_adapted(str(trained.folder), registry, base=str(base))
    adapted.set_rank(2)
    expected = adapted.model(PROBE).logits.detach()
    merge(adapted, tmp_path / "merged")
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    torch.testing.assert_close(merged(PROBE).logits, expected, rtol=1e-4, atol=1e-4)


def test_over_a_base_that_strangers_cannot_make_every_component_is_kept(make, registry, base, tmp_path):
    quantizer = {"name": "nf4", "block_size": 32}
    adapter = {"rank": RANK, "alpha": ALPHA, "published_rank": 2}
    result = run(make(tmp_path / "run", quantizer=quantizer, adapter=adapter, evaluators=["loss"]), registry)
    assert not (result.folder / "adapter_config.json").exists()
    adapted = load_adapted(str(result.folder), registry, base=str(base))
    assert {(layer.rank, layer.max_rank) for layer in adapted.layers.values()} == {(2, RANK)}
    adapted.set_rank(RANK)


def test_a_rank_it_does_not_have_or_cannot_have_is_refused(trained, base, make, registry, tmp_path):
    adapted = load_adapted(str(trained.folder), registry, base=str(base))
    for rank in (0, RANK + 1):
        with pytest.raises(PlanError, match=f"rank {rank} is none of adapter") as caught:
            adapted.set_rank(rank)
        assert caught.value.fix == f"choose a rank from 1 to {RANK}"
    lora = {"derivative": "lora", "adapter": {"rank": 4}, "evaluators": []}
    plain = run(make(tmp_path / "lora", **lora), registry)
    assert "nested" not in plain.manifest.components[0].config
    with pytest.raises(PlanError, match="works at the rank it was trained at, and at no other"):
        load_adapted(str(plain.folder), registry, base=str(base)).set_rank(2)


def test_the_sweep_leaves_the_ranks_as_found_and_measures_what_is_asked_for(make, registry, tmp_path):
    sweep = {"name": "rank-sweep", "metrics": ["exact_match"], "samples": 2}
    adapter = {"rank": RANK, "alpha": ALPHA, "published_rank": 3}
    result = run(make(tmp_path / "run", evaluators=[sweep, "loss"], adapter=adapter), registry)
    swept = {name for name in result.measurements if "@" in name}
    assert swept == {f"main.exact_match@{rank}" for rank in (1, 2, 4, 6)}
    again = run(make(tmp_path / "alone", evaluators=["loss"], adapter=adapter), registry)
    assert again.measurements["main.loss"] == result.measurements["main.loss"]


@pytest.mark.parametrize(
    ("largest", "expected"),
    [(1, [1]), (2, [1, 2]), (3, [1, 2, 3]), (8, [1, 2, 4, 8]), (12, [1, 2, 4, 8, 12])],
)
def test_by_default_powers_of_two_and_the_largest_rank_are_measured(largest, expected):
    assert powers_of_two(largest) == expected
    assert SweepOptions().ranks is None
