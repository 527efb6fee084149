"""The rank budget: its course over the steps, what it prunes, and what it remembers."""

import copy

import pytest
import torch
from torch import nn

from edgelora.errors import CombinationError, PlanError
from edgelora.layers import FrozenLinear
from edgelora.plan import make_plan
from edgelora.protocols import Site, TrainingRun
from edgelora.recipe import make_recipe
from edgelora.registry import Registry
from edgelora_plugins.adalora.layer import SvdLinear
from edgelora_plugins.adalora.options import BudgetOptions
from edgelora_plugins.adalora.schedule import BudgetScheduler

SITES = ("o", "q", "v")


def layers_of(rank=8):
    torch.manual_seed(0)
    return {
        name: SvdLinear(FrozenLinear.of(nn.Linear(16, 16)), Site(name, depth, name, rank, 8.0))
        for depth, name in enumerate(SITES)
    }


def scheduler_of(layers, total=200, **options):
    settings = {"target_rank": 3, "warmup_steps": 20, "final_steps": 40, "every": 10} | options
    scheduler = BudgetScheduler(BudgetOptions(**settings))
    optimizer = torch.optim.AdamW([p for layer in layers.values() for p in layer.parameters()], lr=1e-2)
    scheduler.attach(layers, optimizer, TrainingRun(total, seed=0, tasks=("main",)))
    return scheduler, optimizer


def train(layers, scheduler, optimizer, steps):
    for step in steps:
        torch.manual_seed(step)
        x = torch.randn(8, 16)
        loss = sum(weight * (layer(x) - x.roll(1, 1)).square().mean() for weight, layer in weighed(layers))
        loss.backward()
        optimizer.step()
        scheduler.after_update(step)
        optimizer.zero_grad()


def weighed(layers):
    return zip((1.0, 1.5, 0.8), layers.values(), strict=True)


def tensors(layers):
    return {
        f"{s}.{n}": p.detach().clone() for s, layer in layers.items() for n, p in layer.named_parameters()
    }


@pytest.mark.parametrize(
    ("step", "budget"),
    [(0, 24), (20, 24), (21, 23), (30, 21), (40, 18), (50, 16), (60, 14), (90, 10), (100, 10)]
    + [(step, 9) for step in (120, *range(159, 201))],
)
def test_the_budget_falls_along_the_published_cubic(step, budget):
    scheduler, _ = scheduler_of(layers_of())
    assert scheduler.budget(step) == budget


@pytest.mark.parametrize(
    ("updates", "sensitivity", "uncertainty", "score"),
    [
        (1, 0.15, 0.1275, 0.019125),
        (2, 0.2775, 0.21675, 0.06014812),
        (5, 0.55629469, 0.33277898, 0.18512318),
        (20, 0.96124047, 0.11627859, 0.96124047 * 0.11627859),
    ],
)
def test_constant_importance_gives_the_published_averages(updates, sensitivity, uncertainty, score):
    layers = layers_of()
    scheduler, _ = scheduler_of(layers)
    for layer in layers.values():
        for parameter in (layer.lora_A, layer.lora_B, layer.lora_E):
            parameter.data.fill_(1.0)
            parameter.grad = torch.ones_like(parameter)
    for _ in range(updates):
        scheduler._score()
    for name in scheduler.sensitivity:
        torch.testing.assert_close(scheduler.sensitivity[name].max(), torch.tensor(sensitivity))
        torch.testing.assert_close(scheduler.uncertainty[name].min(), torch.tensor(uncertainty))
    # Once for the singular value, once for the row of A, once for the column of B.
    for site in SITES:
        torch.testing.assert_close(scheduler._scores(site), torch.full((8,), 3 * score))


def test_sensitivity_is_the_product_of_the_updated_weight_and_its_gradient():
    layers = layers_of()
    scheduler, _ = scheduler_of(layers)
    layer = layers["q"]
    layer.lora_A.data.fill_(-2.0)
    layer.lora_A.grad = torch.full_like(layer.lora_A, 3.0)
    scheduler.after_update(0)
    torch.testing.assert_close(scheduler.sensitivity["q.lora_A"], torch.full((8, 16), 0.15 * 6.0))


def test_a_components_score_is_that_of_its_singular_value_and_the_means_of_its_row_and_column():
    layers = layers_of()
    scheduler, _ = scheduler_of(layers)
    for name in scheduler.sensitivity:
        scheduler.sensitivity[name].uniform_()
        scheduler.uncertainty[name].uniform_()
    s = {name: scheduler.sensitivity[name] * scheduler.uncertainty[name] for name in scheduler.sensitivity}
    for site in SITES:
        A, E, B = (s[f"{site}.lora_{factor}"] for factor in "AEB")
        for k, score in enumerate(scheduler._scores(site)):
            torch.testing.assert_close(score, E[k, 0] + A[k].sum() / 16 + B[:, k].sum() / 16)


def test_components_that_tie_with_the_first_left_out_go_too():
    layers = layers_of()
    scheduler, _ = scheduler_of(layers)
    scheduler.sensitivity["o.lora_E"][:2] = scheduler.uncertainty["o.lora_E"][:2] = 1.0
    keep = scheduler._choose(budget=9)
    assert keep["o"].tolist() == [True] * 2 + [False] * 6
    assert not keep["q"].any() and not keep["v"].any()


def test_averages_stand_still_once_the_ranks_are_fixed():
    layers = layers_of()
    scheduler, optimizer = scheduler_of(layers)
    train(layers, scheduler, optimizer, range(160))
    before = copy.deepcopy((scheduler.sensitivity, scheduler.uncertainty))
    train(layers, scheduler, optimizer, range(160, 165))
    for old, new in zip(before, (scheduler.sensitivity, scheduler.uncertainty), strict=True):
        assert all(torch.equal(new[name], average) for name, average in old.items())


def test_the_kept_ranks_sum_to_the_budget_of_the_authors_run_at_every_pruning():
    layers = layers_of()
    scheduler, optimizer = scheduler_of(layers)
    kept = {}
    for step in range(161):
        train(layers, scheduler, optimizer, [step])
        kept[step] = sum(scheduler.rank_pattern().values())
    authors = {30: (7, 6, 8), 40: (6, 4, 8), 60: (4, 4, 6), 100: (3, 1, 6), 160: (2, 1, 6)}
    assert {step: kept[step] for step in authors} == {step: sum(ranks) for step, ranks in authors.items()}


def test_the_kept_ranks_sum_to_the_budget_and_stay():
    layers = layers_of()
    scheduler, optimizer = scheduler_of(layers)
    train(layers, scheduler, optimizer, range(161))
    fixed = scheduler.rank_pattern()
    assert sum(fixed.values()) == 9
    train(layers, scheduler, optimizer, range(161, 200))
    assert scheduler.rank_pattern() == fixed
    assert {site: int(layer.lora_E.ne(0).sum()) for site, layer in layers.items()} == fixed


def test_nothing_is_pruned_before_the_warmup_ends():
    layers = layers_of()
    scheduler, optimizer = scheduler_of(layers)
    train(layers, scheduler, optimizer, range(21))
    assert scheduler.rank_pattern() == {}
    assert all(layer.lora_E.ne(0).all() for layer in layers.values())


def test_a_target_equal_to_the_start_prunes_nothing():
    layers = layers_of()
    scheduler, optimizer = scheduler_of(layers, target_rank=8)
    train(layers, scheduler, optimizer, range(200))
    assert scheduler.rank_pattern() == dict.fromkeys(SITES, 8)


def test_a_target_of_zero_prunes_everything():
    layers = layers_of()
    scheduler, optimizer = scheduler_of(layers, target_rank=0)
    train(layers, scheduler, optimizer, range(200))
    assert not any(layer.lora_E.any() for layer in layers.values())


def test_without_final_steps_the_last_step_still_ends_within_the_budget():
    layers = layers_of()
    scheduler, optimizer = scheduler_of(layers, total=55, final_steps=0, every=7)
    train(layers, scheduler, optimizer, range(55))
    assert sum(int(layer.lora_E.ne(0).sum()) for layer in layers.values()) == 9


@pytest.mark.parametrize("stop", [15, 60, 165])
def test_a_resumed_run_is_the_uninterrupted_one_bit_by_bit(stop):
    layers = layers_of()
    scheduler, optimizer = scheduler_of(layers)
    train(layers, scheduler, optimizer, range(stop))
    saved = tensors(layers), copy.deepcopy(optimizer.state_dict()), copy.deepcopy(scheduler.state_dict())
    train(layers, scheduler, optimizer, range(stop, 200))

    again = layers_of()
    fresh, its_optimizer = scheduler_of(again)
    with torch.no_grad():
        for name, parameter in ((f"{s}.{n}", p) for s, x in again.items() for n, p in x.named_parameters()):
            parameter.copy_(saved[0][name])
    its_optimizer.load_state_dict(saved[1])
    fresh.load_state_dict(saved[2])
    train(again, fresh, its_optimizer, range(stop, 200))
    expected = tensors(layers)
    assert all(torch.equal(value, expected[name]) for name, value in tensors(again).items())


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"target_rank": 9}, "target_rank 9 is more than the 8 ranks per site"),
        ({"warmup_steps": 160}, "160 warmup and 40 final steps leave none of 200"),
    ],
)
def test_a_schedule_that_does_not_fit_is_refused(options, problem):
    with pytest.raises(PlanError, match=problem):
        scheduler_of(layers_of(), **options)


def test_adapters_that_cannot_be_pruned_are_refused_at_plan_time():
    recipe = make_recipe({"base": "micro", "derivative": "lora", "rank_scheduler": "budget"})
    with pytest.raises(CombinationError, match="cannot work with adapter 'lora', which is not Prunable"):
        make_plan(recipe, Registry.discover())


def test_averages_have_the_digits_of_32_bits_whatever_the_adapter_has():
    layers = layers_of()
    for layer in layers.values():
        layer.to(torch.bfloat16)
    scheduler, _ = scheduler_of(layers)
    assert {average.dtype for average in scheduler.sensitivity.values()} == {torch.float32}
    for layer in layers.values():
        for parameter in layer.parameters():
            parameter.grad = torch.full_like(parameter, 1e-3)
    scheduler.after_update(0)
    assert {average.dtype for average in scheduler.uncertainty.values()} == {torch.float32}
