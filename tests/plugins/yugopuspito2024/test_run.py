"""Whole runs with Algorithms 4 and 5: they change what is learned, and are resumed bitwise."""

import math
import os
import signal

import pytest
from safetensors.torch import load_file
from tiny_models import save_llama, save_tokenizer, write_rows

from edgelora.engine.report import QuietReporter
from edgelora.engine.run_folder import RunFolder
from edgelora.errors import Interrupted
from edgelora.recipe import make_recipe
from edgelora.registry import Registry
from edgelora.run import run

REGISTRY = Registry.discover()


class StopAt(QuietReporter):
    """Sends this process a signal when a step is done."""

    def __init__(self, step):
        self.at = step

    def step(self, record):
        if record["step"] == self.at:
            os.kill(os.getpid(), signal.SIGTERM)


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    """A function that makes a recipe of two tasks."""
    folder = tmp_path_factory.mktemp("tiny")
    save_tokenizer(folder)
    save_llama(folder)
    data = [
        {"path": str(write_rows(folder / f"{task}.jsonl", 40, seed=n)), "task": task, "held_out": 0.2}
        for n, task in enumerate(("first", "second"))
    ]

    def make(out, derivative, **changes):
        settings = {"max_steps": 6, "batch_size": 4, "accumulation": 1, "learning_rate": 1e-2, "threads": 1}
        document = {
            "base": str(folder),
            "derivative": derivative,
            "adapter": {"rank": 4, "dropout": 0.1},
            "data": data,
            "evaluators": [{"name": "exact-match", "max_new_tokens": 4, "samples": 4}],
            "train": {**settings, "evaluate_every": 2},
            "out": str(out),
        }
        return make_recipe({**document, **changes})

    return make


def weights(result):
    (file,) = result.folder.glob("*.safetensors")
    return load_file(file)


def largest_difference(first, second):
    assert first.keys() == second.keys()
    return max(float((first[name] - second[name]).abs().max()) for name in first)


@pytest.mark.parametrize("derivative", ["accuracy-scaled", "gradient-importance"])
def test_an_interrupted_run_goes_on_bitwise(recipe, tmp_path, derivative):
    whole = run(recipe(tmp_path / "whole", derivative), REGISTRY)
    broken = recipe(tmp_path / "broken", derivative)
    with pytest.raises(Interrupted):
        run(broken, REGISTRY, reporter=StopAt(3))
    assert largest_difference(weights(whole), weights(run(broken, REGISTRY, resume=True))) == 0


def test_what_evaluations_found_is_in_the_checkpoint(recipe, tmp_path):
    made = recipe(tmp_path / "run", "accuracy-scaled", loss_combiner={"rate": 0.5})
    with pytest.raises(Interrupted):
        run(made, REGISTRY, reporter=StopAt(3))
    state = RunFolder(made.out).latest_checkpoint()["state"]
    # Two evaluations of a model that answers nothing right yet.
    twice = pytest.approx(math.exp(0.5) ** 2)
    assert state["combiner"]["scales"] == {"first": twice, "second": twice}


def test_under_the_default_optimizer_layers_of_other_gradients_learn_otherwise(recipe, tmp_path):
    plain = weights(run(recipe(tmp_path / "plain", "lora"), REGISTRY))
    weighed = weights(run(recipe(tmp_path / "weighed", "gradient-importance"), REGISTRY))
    assert largest_difference(plain, weighed) > 1e-3
