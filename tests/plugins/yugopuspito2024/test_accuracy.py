"""Algorithm 5: tasks with errors weigh more, evaluation after evaluation."""

import re

import pytest
import torch

from edgelora import Registry
from edgelora.errors import PlanError
from edgelora.plan import make_plan
from edgelora.protocols import Measurement, TrainingRun
from edgelora.recipe import make_recipe
from edgelora_plugins.yugopuspito2024.loss import AccuracyScaled
from edgelora_plugins.yugopuspito2024.options import AccuracyOptions


def combiner(*tasks, **options):
    made = AccuracyScaled(AccuracyOptions(**options))
    made.attach(TrainingRun(total_steps=10, seed=0, tasks=tasks))
    return made


def evaluate(made, **accuracies):
    made.after_evaluation({f"{task}.exact_match": Measurement(a, 9, a, a) for task, a in accuracies.items()})


def losses(**values):
    return {name.replace("_", "."): torch.tensor(value) for name, value in values.items()}


def test_golden_factors():
    made, found = combiner("main"), []
    for accuracy in (0.5, 0.6, 0.9, 1.0):
        evaluate(made, main=accuracy)
        found.append(made.scales["main"])
    assert found == pytest.approx([1.051271, 1.094174, 1.105171, 1.105171], abs=5e-7)


def test_a_task_without_errors_stays_and_one_that_was_not_measured_too():
    made = combiner("a", "b", "c")
    evaluate(made, a=1.0, b=0.0)
    assert made.scales == pytest.approx({"a": 1.0, "b": 1.105171, "c": 1.0}, abs=5e-7)


def test_a_loss_counts_by_the_factor_from_before_it():
    made = combiner("a", "b", rate=1.0)
    given = losses(task_a=2.0, task_b=3.0, aux_site=0.5)
    assert made(given, 0) == 5.5
    evaluate(made, a=0.0, b=1.0)
    assert float(made(given, 1)) == pytest.approx(2 * 2.718281828 + 3.5)
    assert float(made(losses(task_b=3.0), 2)) == 3.0


def test_factors_may_be_kept_at_the_number_of_tasks_and_under_a_cap():
    made = combiner("a", "b", normalize=True, rate=1.0)
    evaluate(made, a=0.0, b=1.0)
    assert sum(made.scales.values()) == pytest.approx(2)
    assert made.scales["a"] / made.scales["b"] == pytest.approx(2.718281828)
    made = combiner("a", cap=2.0, rate=0.5)
    for _ in range(9):
        evaluate(made, a=0.0)
    assert made.scales == {"a": 2.0}


def test_faithful_factors_grow_without_bound():
    made = combiner("a")
    for _ in range(100):
        evaluate(made, a=0.5)
    assert made.scales["a"] == pytest.approx(148.413, abs=1e-3)


def test_another_accuracy_may_be_gone_by():
    made = combiner("a", metric="f1")
    made.after_evaluation({"a.f1": Measurement(0.5, 1, 0, 1), "a.exact_match": Measurement(0.0, 1, 0, 1)})
    assert made.scales["a"] == pytest.approx(1.051271, abs=5e-7)


def plan(**changes):
    document = {
        "derivative": "accuracy-scaled",
        "base": "micro",
        "data": [{"path": "a.jsonl", "held_out": 0.1}, {"path": "b.jsonl", "task": "b", "held_out": 0.1}],
        "train": {"evaluate_every": 10, "max_steps": 100},
    }
    return make_plan(make_recipe({**document, **changes}), Registry.discover())


def test_its_derivative_measures_the_accuracy_it_goes_by():
    made = plan()
    assert [part.name for part in made.evaluators] == ["loss", "exact-match"]
    assert isinstance(made.build("loss_combiner"), AccuracyScaled)


@pytest.mark.parametrize(
    ("changes", "problem", "fix"),
    [
        ({"train": {"max_steps": 100}}, "and there are none", "set train.evaluate_every"),
        (
            {"train": {"max_steps": 100, "evaluate_every": 100}},
            "evaluate_every 100 comes to no evaluation before the last of 100 steps",
            "lower train.evaluate_every",
        ),
        (
            {"evaluators": ["loss"]},
            "goes by exact_match, which no evaluator of the recipe measures",
            "add exact-match to evaluators",
        ),
        (
            {"loss_combiner": {"metric": "f1"}},
            "goes by f1, which no evaluator of the recipe measures; they measure exact_match",
            "set loss_combiner.metric",
        ),
        (
            {"data": [{"path": "a.jsonl", "held_out": 0.1}, {"path": "b.jsonl", "task": "b"}]},
            "no row of task 'b' is held out",
            "set held_out",
        ),
    ],
)
def test_a_run_in_which_it_would_learn_nothing_is_refused_when_it_is_planned(changes, problem, fix):
    with pytest.raises(PlanError, match=re.escape(problem)) as caught:
        plan(**changes)
    assert fix in caught.value.fix
