"""Whole runs over streamed and prepared bases give the adapters of plain runs."""

import os
import shutil
import signal

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from edgelora.engine.apply import load_adapted, probe_logits
from edgelora.engine.merge import merge
from edgelora.engine.report import QuietReporter
from edgelora.engine.run_folder import RunFolder
from edgelora.errors import Interrupted, ModelError
from edgelora.layers.generate import greedy
from edgelora.run import run


class StopAfterTwoSteps(QuietReporter):
    def step(self, record):
        if record["step"] == 2:
            os.kill(os.getpid(), signal.SIGTERM)


class SomebodyWrites(QuietReporter):
    """To the last block of the base: after a step, or once the last one is done."""

    def __init__(self, folder, when):
        self.shard, self.when = max(folder.glob("model-*.safetensors")), when

    def step(self, record):
        if record["step"] == self.when:
            self.write()

    def stop(self):
        if self.when == "at the end":
            self.write()

    def write(self):
        data = bytearray(self.shard.read_bytes())
        data[-1] ^= 1
        self.shard.write_bytes(data)


def adapter(result):
    return load_file(result.folder / "adapter_model.safetensors")


def assert_equal(one, other):
    assert one.keys() == other.keys()
    assert all(torch.equal(tensor, other[name]) for name, tensor in one.items())


@pytest.fixture
def two_recipes(recipe, three_blocks, prepared, tmp_path):
    """A function that makes a plain recipe, and one for the prepared base, streamed."""

    def make(derivative, quantizer, **train):
        changes = {"derivative": derivative, "quantizer": quantizer, "evaluators": ["loss", "exact-match"]}
        plain = recipe(train, base=str(three_blocks), out=str(tmp_path / "plain"), **changes)
        folder, train = str(prepared(quantizer)), {**train, "streamed": True}
        return plain, recipe(train, base=folder, out=str(tmp_path / "streamed"), **changes)

    return make


@pytest.mark.parametrize(("derivative", "quantizer"), [("lora", "none"), ("qlora", "nf4")])
def test_a_streamed_run_makes_and_measures_the_same_adapter(two_recipes, registry, derivative, quantizer):
    plain, streamed = two_recipes(derivative, quantizer, evaluate_every=2, evaluate_base=True)
    expected, found = run(plain, registry), run(streamed, registry)
    assert_equal(adapter(found), adapter(expected))
    assert found.measurements == expected.measurements
    assert found.base_measurements == expected.base_measurements


def test_an_unquantized_base_is_streamed_without_being_prepared(recipe, registry, three_blocks, tmp_path):
    changes = {"base": str(three_blocks), "adapter": {"rank": 4, "dropout": 0.1}}
    expected = run(recipe(out=str(tmp_path / "plain"), **changes), registry)
    found = run(recipe({"streamed": True}, out=str(tmp_path / "streamed"), **changes), registry)
    assert_equal(adapter(found), adapter(expected))


def test_a_streamed_run_that_was_stopped_is_resumed_bitwise(two_recipes, registry):
    plain, streamed = two_recipes("qlora", "nf4")
    expected = adapter(run(plain, registry))
    with pytest.raises(Interrupted):
        run(streamed, registry, reporter=StopAfterTwoSteps())
    assert_equal(adapter(run(streamed, registry, resume=True)), expected)


@pytest.mark.parametrize(("when", "saved"), [(2, [2]), ("at the end", [2, 4, 6])])
def test_nothing_is_saved_or_published_of_a_base_that_changed_under_the_run(
    two_recipes, registry, prepared, tmp_path, when, saved
):
    folder = shutil.copytree(prepared("nf4"), tmp_path / "base")
    streamed = two_recipes("qlora", "nf4", save_every=2, keep_checkpoints=9)[1]
    streamed = streamed.model_copy(update={"base": str(folder)})
    with pytest.raises(ModelError, match="changed since the base was checked"):
        run(streamed, registry, reporter=SomebodyWrites(folder, when))
    run_folder = RunFolder(streamed.out)
    found = sorted(path.name for path in run_folder.checkpoints.iterdir())
    assert found == [f"step-{step:06d}.pt" for step in saved]
    assert not run_folder.adapter.exists()


@pytest.mark.parametrize("quantizer", ["none", "nf4", "nf4-icq"])
def test_an_adapter_answers_the_same_over_the_source_and_the_prepared_base(
    two_recipes, registry, three_blocks, prepared, quantizer
):
    result = run(two_recipes("qlora", quantizer)[1], registry)
    bases = prepared(quantizer), three_blocks
    over = [load_adapted(str(result.folder), registry, base=str(base)) for base in bases]
    answers = [greedy(each.model, each.tokenizer, ["say xxx", "say xy"], max_new_tokens=5) for each in over]
    assert answers[0] == answers[1]
    assert torch.equal(*(probe_logits(each.model) for each in over))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_mapped_base_is_merged_into_a_plain_model(two_recipes, registry, prepared, tmp_path, dtype):
    result = run(two_recipes("qlora", "nf4")[1], registry)
    adapted = load_adapted(str(result.folder), registry, base=str(prepared("nf4")))
    before = probe_logits(adapted.model)
    merge(adapted, tmp_path / "merged", dtype)
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    assert plain.dtype == dtype
    assert (probe_logits(plain) - before).abs().max() < (1e-4 if dtype == torch.float32 else 0.5)
