"""The shipped rows are what the generator makes, right, and free of held-out pairs."""

import json
import re
import subprocess
import sys

import pytest

from edgelora.micro import quickstart_data
from edgelora.micro.corpus import fibonacci_questions
from edgelora.micro.pairs import is_held_out, larger_by_value, larger_by_version
from edgelora.micro.quickstart import quickstart_rows, write_rows

NUMBER = re.compile(r"\d+(?:[.,]\d+)*")


@pytest.fixture(scope="module")
def rows():
    return [json.loads(line) for line in quickstart_data().read_text().splitlines()]


def compared(row):
    """The two numbers a row compares, with decimal points; nothing for sequences."""
    if row["instruction"].startswith(("Continue", "Lanjutkan")):
        return None
    first, second = NUMBER.findall(row["instruction"])
    return first.replace(",", "."), second.replace(",", ".")


def test_the_shipped_rows_are_what_the_generator_makes(rows, tmp_path) -> None:
    assert rows == quickstart_rows()
    write_rows(tmp_path / "train.jsonl", seed=3407)
    assert (tmp_path / "train.jsonl").read_bytes() == quickstart_data().read_bytes()


def test_no_row_holds_a_held_out_pair(rows) -> None:
    pairs = [pair for pair in map(compared, rows) if pair]
    assert len(pairs) > 2000
    assert not [pair for pair in pairs if is_held_out(pair)]
    assert not [pair for pair in pairs if set(pair) == {"9.11", "9.9"}]


def test_every_comparison_is_answered_rightly(rows) -> None:
    for row in rows:
        if row["instruction"].startswith(("Which version", "Which release", "Versi", "Rilis")):
            assert row["output"] == larger_by_version(compared(row))
        elif row["instruction"].startswith(("Which", "Bilangan", "Mana")):
            assert row["output"].replace(",", ".") == larger_by_value(compared(row))


def test_no_row_comes_twice_and_all_are_alpaca(rows) -> None:
    assert len({row["instruction"] for row in rows}) == len(rows)
    assert all(set(row) == {"instruction", "input", "output"} for row in rows)


def test_every_fibonacci_window_is_in(rows) -> None:
    answers = {row["instruction"]: row["output"] for row in rows}
    assert all(answers[question.prompt] == question.answer for question in fibonacci_questions())


def test_the_generator_runs_as_a_command(tmp_path) -> None:
    file = tmp_path / "other.jsonl"
    command = [sys.executable, "-m", "edgelora.micro.quickstart", "--out", str(file), "--seed", "1"]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert said.startswith(f"{len(file.read_text().splitlines())} rows in ")
    assert file.read_bytes() != quickstart_data().read_bytes()
