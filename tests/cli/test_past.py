"""An adapter that goes on from another, from recipe to measurement."""

import json
from pathlib import Path

RECIPE = """
derivative: {derivative}
base: micro
adapter: {{rank: 2}}
data: [{{path: rows.jsonl, task: new}}{more}]
{past}
evaluators: [{evaluators}]
train: {{max_steps: 2, batch_size: 2, accumulation: 1, learning_rate: 2.0e-2, threads: 1}}
out: {out}
"""


def write(name, **given):
    Path(name).write_text(RECIPE.format(out=name.removesuffix(".yaml"), **given))
    return name


def questions(path, numbers):
    rows = ({"instruction": f"Which one is larger? {n}.11 or {n}.9?", "output": f"{n}.9"} for n in numbers)
    Path(path).write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_what_training_forgot_is_measured_again_by_evaluate(edgelora):
    questions("rows.jsonl", range(4))
    questions("old.jsonl", range(10, 14))
    first = write("first.yaml", derivative="lora", more="", past="", evaluators="")
    assert edgelora("train", first).exit_code == 0
    second = write(
        "second.yaml",
        derivative="clora",
        more=", {path: old.jsonl, task: old, held_out: 1}",
        past="past: [./first/adapter]",
        evaluators="{name: forgetting, max_new_tokens: 4}",
    )
    assert "past            ./first/adapter (lora, manifest sha256:" in edgelora("plan", second).out
    trained = edgelora("train", second, "--json")
    asked = edgelora("evaluate", second, "--adapter", "./second/adapter", "--json")
    found = [json.loads(each.out)["measurements"] for each in (trained, asked)]
    assert found[0].keys() == {"old.forgetting", "old.before"}
    assert found[0] == found[1]


def test_without_a_past_it_is_said_once_that_it_is_lora(edgelora):
    questions("rows.jsonl", range(4))
    recipe = write("alone.yaml", derivative="clora", more="", past="", evaluators="")
    said = "adapter 'clora' without past: is LoRA, and its penalty is 0"
    assert edgelora("plan", recipe).out.count(said) == 1
    ran = edgelora("train", recipe)
    assert ran.exit_code == 0 and ran.err.count(said) == 1


def test_a_past_that_is_not_there_is_told_before_anything_is_loaded(edgelora):
    questions("rows.jsonl", range(4))
    recipe = write("second.yaml", derivative="clora", more="", past="past: [./absent]", evaluators="")
    ran = edgelora("plan", recipe)
    assert ran.exit_code == 4 and "there is no adapter folder absent" in ran.err
