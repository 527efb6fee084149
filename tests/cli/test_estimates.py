"""``edgelora estimate``: what a recipe will cost."""

import json
import os
import re
import shutil
from pathlib import Path

import pytest

from edgelora.errors import ModelError

RECIPE = (
    "{base: micro, derivative: qlora, adapter: {rank: 8}, train: {max_steps: 30, max_length: 64, threads: 1}}"
)
PARTS = {"weights", "adapter", "gradients", "optimizer", "activations", "logits", "scratch"}


@pytest.fixture
def recipe(edgelora):
    Path("recipe.yaml").write_text(RECIPE)
    return "recipe.yaml"


def test_memory_is_told_by_part_for_each_placement(edgelora, recipe):
    ran = edgelora("estimate", recipe, "--json")
    assert ran.exit_code == 0, ran.err
    document = ran.document
    assert [each["name"] for each in document["memory"]] == ["resident", "checkpointed", "streamed"]
    for each in document["memory"]:
        assert set(each["parts"]) == PARTS
        assert each["peak"] == max(each["loading"], each["stepping"])
    assert document["why_not_streamed"] == "a base that nf4 quantizes is streamed only when it was prepared"
    assert document["measured"] is None
    assert set(document["hours"]["resident"]) == {"60", "500", "6470"}
    assert document["durations"]["resident"]["steps"] == 30
    assert not Path("runs").exists()


def test_where_all_weights_learn_all_of_them_are_counted(edgelora, recipe):
    ran = edgelora("estimate", recipe, "--json", "--set", "derivative=full", "--set", "adapter={}")
    assert ran.exit_code == 0, ran.err
    assert ran.document["trainable"] == ran.document["parameters"]
    assert [each["name"] for each in ran.document["memory"]] == ["resident", "checkpointed"]
    assert ran.document["why_not_streamed"].startswith("adapter 'weights' cannot be streamed")


def test_a_configuration_alone_is_enough(edgelora, recipe):
    from edgelora.micro import path

    Path("config.json").write_text((path() / "config.json").read_text())
    ran = edgelora("estimate", recipe, "--set", "base=./config.json")
    assert ran.exit_code == 0, ran.err
    for words in ("memory, CPU", "every row has train.max_length = 64 tokens", "6,470 steps", "talks say"):
        assert words in ran.out


def test_lengths_come_from_the_data(edgelora, recipe):
    Path("rows.jsonl").write_text("".join(json.dumps({"text": "x" * n}) + "\n" for n in (5, 20, 11)))
    ran = edgelora("estimate", recipe, "--set", "data=[{path: rows.jsonl}]", "--json")
    assert ran.exit_code == 0, ran.err
    assert "the longest of 3 rows has" in ran.document["assumed"]
    assert ran.document["rows"]["length"] < 30
    assert ran.document["rows"]["padded"]


def test_a_real_step_is_compared_and_leaves_nothing(edgelora, recipe):
    before = set(os.listdir("."))
    ran = edgelora("estimate", recipe, "--measure", "--json")
    assert ran.exit_code == 0, ran.err
    measured = ran.document["measured"]
    assert measured["placement"] == "resident"
    assert measured["step_s"] > 0
    # This process holds what tests before it left; the accuracy is the benchmark's to tell.
    predicted = ran.document["memory"][0]
    assert measured["peak"] < 1.1 * predicted["peak"]
    assert measured["anonymous"] < measured["stepping"]
    assert set(os.listdir(".")) == before


def test_what_cannot_run_on_shapes_is_measured(edgelora, recipe, monkeypatch):
    from edgelora.engine.estimating import estimate

    def refuse(plan, around, placement):
        raise ModelError("a step cannot be taken on shapes alone", fix="measure it")

    monkeypatch.setattr(estimate, "predict", refuse)
    assert edgelora("estimate", recipe).exit_code == 3
    ran = edgelora("estimate", recipe, "--measure", "--json")
    assert ran.exit_code == 0, ran.err
    assert ran.document["measured"]["peak"] > 0
    assert "a step cannot be taken on shapes alone" in ran.err
    # A budget cannot choose without shapes, and what it would choose is not needed to measure.
    ran = edgelora("estimate", recipe, "--measure", "--json", "--set", "memory_budget=1MiB")
    assert ran.exit_code == 0, ran.err


def test_what_a_budget_chose_is_measured(edgelora, recipe, tmp_path, monkeypatch):
    # Whatever a process imports may print; that is not its answer.
    (tmp_path / "sitecustomize.py").write_text("print('hello')\n")
    path = os.environ.get("PYTHONPATH", "")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), *filter(None, [path])]))
    changes = ("--set", "memory_budget=64GiB", "--set", "train.loss_rows=64")
    ran = edgelora("estimate", recipe, "--measure", "--json", *changes)
    assert ran.exit_code == 0, ran.err
    assert ran.document["measured"]["placement"] == "resident"
    ran = edgelora("estimate", recipe, "--measure", "--set", "memory_budget=1MiB")
    assert ran.exit_code == 8
    assert "memory_budget is 1.00 MiB, and the least" in ran.err


def test_there_is_nothing_to_measure_without_weights(edgelora, recipe):
    from edgelora.micro import path

    Path("config.json").write_text((path() / "config.json").read_text())
    ran = edgelora("estimate", recipe, "--set", "base=./config.json", "--measure")
    assert ran.exit_code == 4
    assert "memory, CPU" in ran.out
    assert "--measure needs the weights: ./config.json is a file" in ran.err
    ran = edgelora("estimate", recipe, "--set", "base=.", "--measure", "--json")
    assert ran.exit_code == 3
    assert "--measure needs the weights" in ran.document["error"]["problem"]


def test_a_folder_with_a_configuration_alone_is_enough(edgelora, recipe):
    from edgelora.micro import path

    Path("bare").mkdir()
    Path("bare/config.json").write_text((path() / "config.json").read_text())
    Path("rows.jsonl").write_text(json.dumps({"text": "x"}) + "\n")
    changes = ("--set", "base=./bare", "--set", "data=[{path: rows.jsonl}]")
    ran = edgelora("estimate", recipe, *changes)
    assert ran.exit_code == 0, ran.err
    assert "every row has train.max_length = 64 tokens" in ran.out
    document = edgelora("estimate", recipe, *changes, "--json").document
    assert document["disk"]["base"] > document["disk"]["prepared_base"] > 10**5


def test_a_budget_is_tried(edgelora, recipe):
    ran = edgelora("estimate", recipe, "--set", "memory_budget=1MiB", "--json")
    assert ran.document["budget"].startswith("memory_budget is 1.00 MiB, and the least")


def test_a_base_that_is_nowhere_is_told(edgelora, recipe):
    ran = edgelora("estimate", recipe, "--set", "base=./nowhere")
    assert ran.exit_code == 4
    assert "there is no base model folder" in ran.err


def test_a_budget_is_shown_by_plan_and_refused_by_train(edgelora, recipe):
    Path("rows.jsonl").write_text(json.dumps({"text": "x" * 20}) + "\n")
    changes = ("--set", "memory_budget=1MiB", "--set", "data=[{path: rows.jsonl}]")
    assert "memory budget   1.00 MiB: the base is resident" in edgelora("plan", recipe, *changes).out
    ran = edgelora("train", recipe, *changes)
    assert ran.exit_code == 8
    assert ran.err.count("error[memory-budget-exceeded]: memory_budget is 1.00 MiB") == 1


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"model_type": "t5"}, "a t5 is no causal language model"),
        (
            {"model_type": "llama", "quantization_config": {"quant_method": "gptq"}},
            r"already quantized \(gptq\)",
        ),
    ],
)
def test_what_training_would_refuse_has_no_price(edgelora, recipe, config, words):
    Path("config.json").write_text(json.dumps(config))
    ran = edgelora("estimate", recipe, "--set", "base=./config.json")
    assert ran.exit_code == 3
    assert re.search(words, ran.err)


def test_a_measured_step_fails_as_training_does(edgelora, recipe):
    from edgelora.micro import path

    shutil.copytree(path(), "broken")
    weights = Path("broken/model.safetensors")
    weights.write_bytes(weights.read_bytes()[:-8])
    ran = edgelora("estimate", recipe, "--set", "base=./broken", "--measure", "--json")
    assert ran.document["error"]["id"] == "tensors-invalid"
    assert "broken/model.safetensors" in ran.document["error"]["problem"]
    assert "Traceback" not in ran.err
