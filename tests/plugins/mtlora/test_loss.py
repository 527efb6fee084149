"""Weights given and weights learned."""

import math
from types import SimpleNamespace

import pytest
import torch
from pydantic import ValidationError
from torch.nn import functional

from edgelora import Options
from edgelora.errors import PlanError
from edgelora.protocols import TrainingRun
from edgelora_plugins.mtlora.loss import LearnedUncertainty, WeightedTasks
from edgelora_plugins.mtlora.options import TaskLoraOptions, WeightOptions

AUX = "aux.model.layers.0.self_attn.q_proj.orthogonality"


def losses(**values):
    return {f"task.{task}": torch.tensor(value) for task, value in values.items()}


def weighted(weights, tasks=("a", "b")):
    combiner = WeightedTasks(WeightOptions(weights=weights))
    combiner.attach(TrainingRun(total_steps=200, seed=0, tasks=tasks))
    return combiner


def uncertainty(tasks=("a", "b")):
    combiner = LearnedUncertainty(Options())
    combiner.attach(TrainingRun(total_steps=200, seed=0, tasks=tasks))
    return combiner


def test_a_squared_error_weighing_2_and_an_absolute_one_weighing_5_make_12_and_a_half():
    squared = functional.mse_loss(torch.tensor([1.0, 2.0]), torch.zeros(2))
    absolute = functional.l1_loss(torch.tensor([0.0, 3.0]), torch.ones(2))
    assert weighted({"a": 2, "b": 5})({"task.a": squared, "task.b": absolute}, 0) == 12.5


def test_a_task_without_a_weight_weighs_1_and_auxiliary_losses_always_do():
    found = weighted({"a": 3.0})({**losses(a=2.0, b=7.0), AUX: torch.tensor(0.25)}, 0)
    assert found == 3 * 2.0 + 7.0 + 0.25


def test_without_weights_it_is_the_plain_sum_of_the_tasks():
    assert weighted({})(losses(a=2.5, b=1.5), 0) == 4.0


def test_a_task_that_is_absent_adds_nothing():
    assert weighted({"a": 3.0, "b": 5.0})(losses(b=2.0), 0) == 10.0


def test_a_task_of_weight_0_gets_no_gradient():
    given = {name: loss.requires_grad_() for name, loss in losses(a=2.0, b=7.0).items()}
    weighted({"a": 0.0})(given, 0).backward()
    assert [loss.grad.item() for loss in given.values()] == [0.0, 1.0]


@pytest.mark.parametrize(
    ("name", "fix"), [("transalte", "did you mean 'translate'?"), ("zzz", "use one of: translate, sum")]
)
@pytest.mark.parametrize(
    ("options", "where"),
    [(TaskLoraOptions, "adapter.task_rank_pattern"), (WeightOptions, "loss_combiner.weights")],
)
def test_an_option_for_no_task_of_the_data_is_refused(options, where, name, fix):
    field = where.partition(".")[2]
    with pytest.raises(PlanError, match=rf"{where} names '{name}', which is no task") as caught:
        options(**{field: {name: 1}}).check(SimpleNamespace(tasks=("translate", "sum")))
    assert caught.value.fix == fix


@pytest.mark.parametrize("weight", [-1.0, float("inf"), float("nan")])
def test_weights_that_are_negative_or_not_finite_are_refused(weight):
    with pytest.raises(ValidationError):
        WeightOptions(weights={"a": weight})


def test_uncertainty_starts_as_the_plain_sum():
    assert uncertainty()({**losses(a=2.0, b=7.0), AUX: torch.tensor(0.25)}, 0) == 9.25


def test_uncertainty_is_the_published_form_with_auxiliary_losses_unweighed():
    combiner = uncertainty()
    first, second = combiner.parameters()
    first.data.fill_(0.5)
    second.data.fill_(-1.0)
    found = combiner({**losses(a=2.0, b=7.0), AUX: torch.tensor(0.25)}, 0)
    # With σ² = exp(u): L / σ² + log σ.
    expected = sum(loss / math.exp(u) + math.log(math.exp(u) ** 0.5) for loss, u in ((2.0, 0.5), (7.0, -1.0)))
    assert found.item() == pytest.approx(expected + 0.25, rel=1e-6)


def test_a_log_variance_settles_at_the_log_of_twice_its_loss():
    combiner = uncertainty()
    optimizer = torch.optim.SGD(combiner.parameters(), lr=0.3)
    for step in range(200):
        optimizer.zero_grad()
        combiner(losses(a=2.0, b=0.1), step).backward()
        optimizer.step()
    assert [p.item() for p in combiner.parameters()] == pytest.approx(
        [math.log(4.0), math.log(0.2)], abs=1e-4
    )


def test_the_log_variance_of_an_absent_task_has_the_gradient_of_its_own_term_alone():
    combiner = uncertainty()
    combiner(losses(b=7.0), 0).backward()
    first, second = combiner.parameters()
    assert float(first.grad) == 0.5
    assert float(second.grad) == pytest.approx(-7.0 + 0.5)


def test_uncertainty_weighs_the_step_alike_however_its_rows_are_split():
    whole, split = uncertainty(), uncertainty()
    for combiner in (whole, split):
        for parameter in combiner.parameters():
            parameter.data.fill_(0.3)
    whole(losses(a=2.0, b=7.0), 0).backward()
    # Halves of the step with one task each: the losses are divided by the share they are multiplied with.
    for part in (losses(a=4.0), losses(b=14.0)):
        (split(part, 0) / 2).backward()
    assert [p.grad.item() for p in split.parameters()] == pytest.approx(
        [p.grad.item() for p in whole.parameters()], rel=1e-6
    )


def test_log_variances_are_leaves_on_the_cpu_and_the_same_at_each_call():
    combiner = uncertainty()
    first, again = list(combiner.parameters()), list(combiner.parameters())
    assert [id(p) for p in first] == [id(p) for p in again]
    assert all(p.is_leaf and p.device.type == "cpu" and p.dtype == torch.float32 for p in first)
    assert len(first) == 2


def test_its_state_is_loaded_in_place_and_is_a_copy():
    learned, fresh = uncertainty(), uncertainty()
    held = list(fresh.parameters())
    for number, parameter in enumerate(learned.parameters()):
        parameter.data.fill_(number + 0.5)
    state = learned.state_dict()
    fresh.load_state_dict(state)
    assert [p.item() for p in held] == [0.5, 1.5]
    assert [id(p) for p in held] == [id(p) for p in fresh.parameters()]
    for parameter in (*held, *learned.parameters()):
        parameter.data.fill_(9.0)
    assert [float(tensor) for tensor in state.values()] == [0.5, 1.5]
