"""Killed at random moments and resumed, a run ends in the bytes of the uninterrupted one."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tiny_models import save_llama, save_tokenizer, write_rows

ROUNDS = int(os.environ.get("EDGELORA_ROUNDS", "20"))
KILLS_PER_ROUND = 2
STEPS = 60

RECIPE = """
derivative: {derivative}
base: {base}
adapter: {{rank: 4, dropout: 0.1}}
{parts}
data:
  - {{path: {rows}, held_out: 0.1, task: first}}
  - {{path: {others}, held_out: 0.1, task: second}}
train: {{max_steps: {steps}, batch_size: 2, accumulation: 2, learning_rate: 1.0e-2, threads: 1, save_every: 3,
         evaluate_every: {evaluate_every}, packing: {packing}}}
out: {out}
"""

PARTS = {
    "lora": "",
    "qlora": "",
    "adalora": "rank_scheduler: {target_rank: 2, every: 4, warmup_steps: 5, final_steps: 15}",
    "mtlora": "loss_combiner: uncertainty",
    "clora": "past: [FOLDER/first/adapter]",
    "qdylora": "",
    "accuracy-scaled": "evaluators: [{name: exact-match, max_new_tokens: 4, samples: 4}]",
    "gradient-importance": "",
}
"""Prunings, weights of tasks and layers, and the adapters before it are state that must come back."""
EVALUATES = {"accuracy-scaled"}
"""What is found on the way changes what is learned: no run without evaluations is planned."""
CASES = [
    (derivative, every) for derivative in PARTS for every in (0, 7) if every or derivative not in EVALUATES
]

PACKED = {"mtlora"}
"""How rows are packed is no state: it follows from seed and step."""


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("kill")
    save_tokenizer(folder / "base")
    save_llama(folder / "base")
    rows, others = write_rows(folder / "train.jsonl", 200), write_rows(folder / "other.jsonl", 100, seed=1)
    first = folder / "first.yaml"
    first.write_text(
        f"{{derivative: lora, base: {folder / 'base'}, adapter: {{rank: 3}}, data: [{{path: {rows}}}],"
        f" train: {{max_steps: 5, learning_rate: 1.0e-2}}, out: {folder / 'first'}}}"
    )
    finish(start(first))
    return folder, rows, others


def start(recipe, *options):
    command = [sys.executable, "-m", "edgelora_cli", "train", str(recipe), "--quiet", *options]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def steps_done(out):
    metrics = Path(out) / "metrics.jsonl"
    return metrics.read_bytes().count(b'"loss"') if metrics.exists() else 0


def finish(process):
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors.decode()[-2000:]


def kill_at(process, out, step, deadline_s=120):
    """SIGKILL when ``step`` steps are done; answers whether the process was still running."""
    until = time.monotonic() + deadline_s
    while process.poll() is None and steps_done(out) < step and time.monotonic() < until:
        time.sleep(0.002)
    time.sleep(random.random() * 0.05)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    return process.returncode == -signal.SIGKILL


@pytest.mark.acceptance
@pytest.mark.parametrize(("derivative", "evaluate_every"), CASES)
def test_a_killed_run_resumes_to_the_same_bytes(inputs, tmp_path, derivative, evaluate_every):
    folder, rows, others = inputs
    draw = random.Random(f"{derivative}/{evaluate_every}")

    def recipe(name):
        path = tmp_path / f"{name}.yaml"
        text = RECIPE.format(
            derivative=derivative,
            base=folder / "base",
            parts=PARTS[derivative].replace("FOLDER", str(folder)),
            rows=rows,
            others=others,
            steps=STEPS,
            evaluate_every=evaluate_every,
            packing=str(derivative in PACKED).lower(),
            out=tmp_path / name,
        )
        path.write_text(text)
        return path

    def weights(name):
        (file,) = (tmp_path / name / "adapter").glob("*.safetensors")
        return file.read_bytes()

    finish(start(recipe("whole")))
    expected = weights("whole")
    killed = 0
    for number in range(max(1, ROUNDS // 4)):
        name = f"round-{number}"
        process = start(recipe(name))
        for step in sorted(draw.sample(range(4, STEPS - 4), KILLS_PER_ROUND)):
            killed += kill_at(process, tmp_path / name, step)
            process = start(recipe(name), "--resume")
        finish(process)
        assert weights(name) == expected
    assert killed > 0
    print(f"{derivative}, evaluation every {evaluate_every} steps: {killed} kills, all bitwise equal")
