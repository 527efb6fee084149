"""Forgetting: what was answered before training and is not any more, question by question."""

from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from edgelora.errors import PlanError
from edgelora.intervals import paired_interval
from edgelora.layers import FrozenLinear, LowRankLinear
from edgelora.layers.start import as_started
from edgelora.plan import make_plan
from edgelora.protocols import Factors, Site
from edgelora.recipe import make_recipe
from edgelora.registry import Registry
from edgelora_plugins.clora import metrics
from edgelora_plugins.clora.metrics import Forgetting
from edgelora_plugins.clora.options import ForgettingOptions


def test_a_layer_computes_its_start_inside_and_itself_again_afterwards():
    torch.manual_seed(0)
    layer = LowRankLinear(FrozenLinear.of(nn.Linear(6, 4)), Site("q", 0, "q", 2, 2.0))
    nn.init.normal_(layer.lora_B)
    past = Factors(torch.randn(3, 6), torch.randn(4, 3), 0.5)
    x = torch.randn(2, 6)
    before = layer(x)
    with as_started({"q": layer}, {"q": (past,)}):
        torch.testing.assert_close(layer(x), layer.base(x) + 0.5 * x @ past.A.T @ past.B.T)
    with as_started({"q": layer}, {}):
        torch.testing.assert_close(layer(x), layer.base(x))
    assert torch.equal(layer(x), before) and "forward" not in vars(layer)


def test_it_counts_what_is_lost_less_what_is_gained(monkeypatch):
    answers = iter([[True, False, False, True], [True, True, True, False]])
    examples = [SimpleNamespace(prompt=str(number), response="") for number in range(4)]
    monkeypatch.setattr(metrics, "answered_right", lambda *_: next(answers))
    monkeypatch.setattr(metrics, "examples_of", lambda *_: examples)
    run = SimpleNamespace(layers={"q": nn.Identity()}, past={}, plan=None)
    monkeypatch.setattr(metrics, "as_started", lambda *_: nullcontext())
    found = Forgetting(ForgettingOptions(tasks=["old"]))(run)
    assert found["old.forgetting"].value == pytest.approx((2 - 1) / 4)
    assert found["old.before"].value == 0.75
    low, high = paired_interval(2, 1, 4)
    assert (found["old.forgetting"].low, found["old.forgetting"].high) == (low, high)


@pytest.mark.parametrize(
    ("lost", "gained", "n"), [(0, 0, 1), (1, 0, 1), (50, 0, 50), (0, 7, 7), (30, 10, 200)]
)
def test_the_interval_holds_the_value_and_is_never_empty(lost, gained, n):
    low, high = paired_interval(lost, gained, n)
    assert -1 <= low <= (lost - gained) / n <= high <= 1 and low < high


def test_the_interval_is_that_of_the_published_method():
    # b = 30, c = 10, n = 200: (30.5 − 10.5) / 202 ± 1.96 √((41 / 202 − (20 / 202)²) / 202)
    low, high = paired_interval(30, 10, 200)
    assert (low, high) == (pytest.approx(0.0384, abs=1e-4), pytest.approx(0.1596, abs=1e-4))


def plan_with(data, **options):
    evaluators = [{"name": "forgetting", **options}]
    document = {"base": "micro", "data": data, "evaluators": evaluators}
    return make_plan(make_recipe(document), Registry.discover())


def test_it_asks_about_the_tasks_that_are_only_measured():
    data = [
        {"path": "new.jsonl", "task": "new", "held_out": 0.5},
        {"path": "o", "task": "old", "held_out": 1},
    ]
    plan = plan_with(data)
    assert plan.evaluators[0].options.chosen(plan) == ["old"]
    assert plan_with(data, tasks=["new"]).evaluators[0].options.chosen(plan) == ["new"]


def test_a_plan_without_an_earlier_task_is_refused():
    with pytest.raises(PlanError, match="all tasks of the data are trained on") as caught:
        plan_with([{"path": "new.jsonl"}])
    assert "held_out: 1" in caught.value.fix
    with pytest.raises(PlanError, match="the data have no task 'old'"):
        plan_with([{"path": "new.jsonl"}], tasks=["old"])
