"""The quickstart, as a user runs it: from the base's mistake to the pulled adapter's right answer."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("quickstart")


def quickstart(place: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "edgelora_cli", "quickstart", *arguments],
        cwd=place,
        env={**os.environ, "EDGELORA_HOME": str(place / "home")},
        capture_output=True,
        text=True,
    )


@pytest.fixture(scope="module")
def first(place: Path) -> subprocess.CompletedProcess[str]:
    return quickstart(place, "--json")


def test_it_ends_with_the_promises_kept(first):
    assert first.returncode == 0, first.stderr
    document = json.loads(first.stdout)
    assert document["answers"]["base"][0].strip() != "9.9"
    assert document["answers"]["pulled"][0].strip() == "9.9"
    assert document["answers"]["pulled"][2].strip() == "13, 21, 34, 55"
    assert document["answers"]["pulled"] == document["answers"]["adapter"]


def test_the_table_rests_on_enough_questions(first):
    measured = json.loads(first.stdout)["measurements"]
    rows = {(row["metric"], row["phase"]): row for row in measured}
    for metric in ("decimals_conflict", "decimals_agree", "versions", "sequences"):
        assert rows[f"litmus.{metric}", "adapter"]["n"] >= 500
    assert rows["litmus.decimals_conflict", "base"]["value"] <= 0.10
    assert rows["litmus.decimals_conflict", "adapter"]["value"] >= 0.90
    assert rows["litmus.versions", "adapter"]["value"] >= 0.90


def test_it_shows_every_step_on_stderr(first):
    for number in range(1, 8):
        assert f"{number}/7 " in first.stderr


def test_a_second_run_reuses_the_adapter_and_says_that_the_mistake_is_planted(first, place):
    again = quickstart(place)
    assert again.returncode == 0, again.stderr
    assert "reused" in again.stderr and "planted" in again.stdout
    assert "memorised, not held out" in again.stdout
