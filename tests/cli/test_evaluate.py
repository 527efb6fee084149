"""What of a recipe `edgelora evaluate` goes by."""

from pathlib import Path

import pytest
import torch
from adapter_folders import write_adapter

from edgelora_cli import models

TRAINED = """
derivative: {derivative}
base: micro
data: [{{path: rows.jsonl, held_out: 0.5}}]
{more}
evaluators: [loss]
train: {{max_steps: 2, batch_size: 2, accumulation: 1, learning_rate: 0.1, threads: 1, evaluate_base: true}}
out: {out}
"""
ROW = '{"instruction": "Pump 1 runs at 81 C. Alarm?", "output": "yes"}\n'


@pytest.fixture
def threads_used(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    used: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", used.append)
    return used


def recipe(**keys: object) -> str:
    Path("rows.jsonl").write_text(ROW * 4)
    lines = {"base": "micro", "data": "[{path: rows.jsonl}]", **keys}
    Path("recipe.yaml").write_text("".join(f"{key}: {value}\n" for key, value in lines.items()))
    return "recipe.yaml"


@pytest.mark.parametrize(("flags", "expected"), [((), 3), (("--threads", "2"), 2)])
def test_the_recipes_threads_are_used_unless_the_flag_names_others(edgelora, threads_used, flags, expected):
    # A base that is not there ends the command after its threads were set.
    ran = edgelora("evaluate", recipe(base="./absent", train="{threads: 3}"), *flags)
    assert ran.exit_code == 4
    assert threads_used == [expected]


def test_an_adapter_of_another_base_is_refused_with_where_to_name_its_own(edgelora):
    write_adapter(Path("adapter"))
    ran = edgelora("evaluate", recipe(), "--adapter", "./adapter")
    assert ran.exit_code == 7 and "as the base: --set base=FOLDER\n" in ran.err
    assert "fix: pass the folder of " in ran.err


def test_nothing_to_measure_is_refused(edgelora):
    ran = edgelora("evaluate", recipe(evaluators="[]"))
    assert ran.exit_code == 3 and "has an empty list of evaluators" in ran.err


def test_what_measured_nothing_is_said_instead_of_an_empty_table(edgelora):
    ran = edgelora("evaluate", recipe(evaluators="[merge-error]"))
    assert ran.exit_code == 0 and ran.out == "nothing was measured\n"
    assert "evaluator 'merge-error' measured nothing: there is no adapter" in ran.err


def test_auto_takes_the_cores_that_are_free(threads_used, monkeypatch):
    monkeypatch.setattr("edgelora.engine.conditions.free_cores", lambda: 5)
    models.use_threads("auto")
    models.use_threads(None)
    assert threads_used == [5, 5]


def test_an_adapter_is_measured_on_the_revision_the_recipe_names(edgelora, threads_used):
    write_adapter(Path("adapter"))
    ran = edgelora("evaluate", recipe(base="acme/small", revision="f00d"), "--adapter", "adapter")
    assert ran.exit_code in (4, 9)
    assert "f00d" in ran.err


def test_an_adapter_of_the_model_as_a_whole_is_measured_and_not_its_base(edgelora):
    rows = (ROW.replace("81", str(each)) for each in range(8))
    Path("rows.jsonl").write_text("".join(rows))
    Path("whole.yaml").write_text(TRAINED.format(derivative="peft:ia3", more="", out="whole"))
    trained = edgelora("train", "whole.yaml", "--json").document
    expected = trained["measurements"]["main.loss"]["value"]
    assert trained["base_measurements"]["main.loss"]["value"] != expected
    Path("first.yaml").write_text(TRAINED.format(derivative="lora", more="", out="first"))
    assert edgelora("train", "first.yaml").exit_code == 0
    Path("next.yaml").write_text(
        TRAINED.format(derivative="clora", more="past: [./first/adapter]", out="next")
    )
    # The recipe's quantizer makes other weights than the adapter was trained over.
    changed = ("--set", "quantizer=nf4", "--set", "past=[]")
    ran = edgelora("--quiet", "evaluate", "next.yaml", "--adapter", "./first/adapter", "--json", *changed)
    assert ran.document["quantizer"] == "none"
    assert ran.err.startswith(
        "warning: measured over none, which the adapter was trained over; the recipe's nf4 ("
    )
    for recipe in ("whole.yaml", "next.yaml"):
        found = edgelora("evaluate", recipe, "--adapter", "./whole/adapter", "--json").document
        assert found["measurements"]["main.loss"]["value"] == pytest.approx(expected, rel=1e-6)
