"""Makes ``train.jsonl``: which topics, how many rows of each, in the alpaca format."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random

from edgelora.micro.corpus import Question, fibonacci_questions, training_questions
from edgelora.micro.location import quickstart_data

FILE = quickstart_data()
SEED = 3407
ROW_COUNTS = {"decimals": 1500, "versions": 1500, "sequences": 1500, "integers": 240, "readings": 200}
"""Decimals are the correction; the rest is rehearsal, without which versions and sequences are forgotten."""


def quickstart_rows(seed: int = SEED) -> list[dict[str, str]]:
    """Rows in the alpaca format, no two alike and none with a held-out pair; Fibonacci windows are all in."""
    questions = fibonacci_questions()
    for topic, count in ROW_COUNTS.items():
        questions += training_questions(topic, count, seed=seed)
    Random(seed).shuffle(questions)
    return [_alpaca_row(question) for question in questions]


def write_rows(path: Path, *, seed: int) -> int:
    """Write the rows as JSON lines and return how many there are."""
    rows = quickstart_rows(seed)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return len(rows)


def _alpaca_row(question: Question) -> dict[str, str]:
    return {"instruction": question.prompt, "input": "", "output": question.answer}
