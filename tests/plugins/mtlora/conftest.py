"""A recipe of two tasks that want different answers to the same questions."""

import json
import random

import pytest
from tiny_models import save_llama, save_tokenizer

from edgelora.recipe import make_recipe
from edgelora.registry import Registry

ANSWERS = {"first": "aaaa", "second": "zzzz"}


@pytest.fixture(scope="package")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny-base")
    save_tokenizer(folder)
    save_llama(folder)
    return folder


@pytest.fixture(scope="package")
def data(tmp_path_factory):
    """A file for each task: the same 40 questions, answered each in its own way."""
    folder = tmp_path_factory.mktemp("data")
    draw = random.Random(0)
    questions = [f"say {number} " + "x" * draw.randint(1, 10) for number in range(40)]
    for task, answer in ANSWERS.items():
        rows = [{"instruction": question, "input": task, "output": answer} for question in questions]
        (folder / f"{task}.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    return [{"path": str(folder / f"{task}.jsonl"), "task": task, "held_out": 0.1} for task in ANSWERS]


@pytest.fixture(scope="session")
def registry():
    return Registry.discover()


@pytest.fixture
def recipe(base, data, tmp_path):
    """A function that makes a recipe: keywords replace its keys, ``train`` is merged."""

    def make(train=None, **changes):
        settings = {"max_steps": 6, "batch_size": 2, "accumulation": 2, "learning_rate": 2e-2, "threads": 1}
        document = {
            "derivative": "mtlora",
            "base": str(base),
            "adapter": {"rank": 4, "dropout": 0.1},
            "data": data,
            "evaluators": ["loss"],
            "out": str(tmp_path / "run"),
            "train": settings | (train or {}),
        }
        return make_recipe(document | changes)

    return make
