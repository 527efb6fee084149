"""The derivatives side by side: three seeds on the built-in base, and two tasks that contradict."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from derivatives import DERIVATIVES
from forgetting import interval

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
BAR = 0.85

pytestmark = pytest.mark.acceptance


def measured(name, tmp_path):
    out = tmp_path / "result.json"
    command = [sys.executable, str(BENCHMARKS / f"{name}.py"), "--out", str(out)]
    print(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
    return json.loads(out.read_text())


def test_each_derivative_corrects_the_planted_misconception(tmp_path):
    results = measured("derivatives", tmp_path)["results"]
    worst = {name: min(run["litmus.decimals_conflict"] for run in runs) for name, runs in results.items()}
    assert set(worst) == set(DERIVATIVES)
    assert {name: value for name, value in worst.items() if value < BAR} == {}


def test_c_lora_forgets_less_than_lora_after_lora(tmp_path):
    sequential, continual = measured("forgetting", tmp_path)["results"].values()
    lost = [[run["forgetting"] for run in runs] for runs in (sequential, continual)]
    _, low, _ = interval([old - new for old, new in zip(*lost, strict=True)])
    assert low > 0
    assert min(run["decimals"] for run in continual) >= BAR


def test_tasks_behind_one_prompt_need_an_adapter_that_knows_the_task(tmp_path):
    rows = measured("task_conflict", tmp_path)
    same = {row["derivative"]: row for row in rows if row["prompts"] == "same"}
    assert min(same["mtlora"]["decimals"], same["mtlora"]["versions"]) >= 0.90
    assert min(same["lora"]["decimals"], same["lora"]["versions"]) < 0.90
    assert same["mtlora"]["trainable_parameters"] <= same["lora"]["trainable_parameters"]
