"""One rank for each optimizer step, drawn from seed and step."""

from collections import Counter

import pytest
import torch
from torch import nn

from edgelora.errors import CombinationError, PlanError
from edgelora.layers import FrozenLinear
from edgelora.layers.nested import NestedLowRankLinear
from edgelora.plan import make_plan
from edgelora.protocols import Site, TrainingRun
from edgelora.recipe import make_recipe
from edgelora.registry import Registry
from edgelora_plugins.qdylora.options import NestedOptions
from edgelora_plugins.qdylora.schedule import NestedRanks

RANKS = {"q": 8, "k": 4, "v": 8}


def layers_of():
    torch.manual_seed(0)
    return {
        name: NestedLowRankLinear(FrozenLinear.of(nn.Linear(16, 16)), Site(name, depth, name, rank, 8.0))
        for depth, (name, rank) in enumerate(RANKS.items())
    }


def scheduler_of(layers, seed=3407, **options):
    scheduler = NestedRanks(NestedOptions(**options))
    optimizer = torch.optim.AdamW([p for layer in layers.values() for p in layer.parameters()])
    scheduler.attach(layers, optimizer, TrainingRun(100, seed=seed, tasks=("main",)))
    return scheduler


def plan(**parts):
    rows = [{"path": "rows.jsonl"}]
    return make_plan(
        make_recipe({"base": "micro", "derivative": "qdylora", "data": rows, **parts}), Registry.discover()
    )


def test_all_layers_get_the_rank_of_the_step_as_far_as_they_have_it():
    layers = layers_of()
    scheduler = scheduler_of(layers)
    for step in range(20):
        scheduler.before_forward(step)
        b = scheduler.rank_of(step)
        assert {name: layer.rank for name, layer in layers.items()} == {
            name: min(b, rank) for name, rank in RANKS.items()
        }


def test_the_rank_holds_until_the_update_and_then_is_what_it_was():
    layers = layers_of()
    layers["q"].set_rank(5)
    scheduler = scheduler_of(layers, ranks=[2])
    scheduler.before_forward(0)
    scheduler.before_update(0)
    assert {layer.rank for layer in layers.values()} == {2}
    scheduler.after_update(0)
    assert {name: layer.rank for name, layer in layers.items()} == {"q": 5, "k": 4, "v": 8}
    assert scheduler.rank_pattern() == {"q": 5, "k": 4, "v": 8}


def test_where_everything_is_published_no_rank_was_changed():
    layers = layers_of()
    scheduler = scheduler_of(layers)
    scheduler.before_forward(0)
    scheduler.after_update(0)
    assert scheduler.rank_pattern() == {}


def test_ranks_are_drawn_alike_from_one_to_the_largest():
    scheduler = scheduler_of(layers_of())
    drawn = Counter(map(scheduler.rank_of, range(8000)))
    assert sorted(drawn) == list(range(1, 9))
    # Five standard deviations of a count of 1000.
    assert all(abs(count - 1000) < 150 for count in drawn.values())


def test_ranks_are_drawn_from_a_list_alike():
    scheduler = scheduler_of(layers_of(), ranks=[1, 2, 8])
    drawn = Counter(map(scheduler.rank_of, range(3000)))
    assert sorted(drawn) == [1, 2, 8]
    assert all(abs(count - 1000) < 150 for count in drawn.values())


def test_the_draw_follows_from_seed_and_step_and_from_nothing_else():
    first = scheduler_of(layers_of())
    drawn = [first.rank_of(step) for step in range(50)]
    torch.manual_seed(9)
    again = scheduler_of(layers_of())
    assert [again.rank_of(step) for step in reversed(range(50))] == drawn[::-1]
    other = scheduler_of(layers_of(), seed=1)
    assert [other.rank_of(step) for step in range(50)] != drawn
    assert first.state_dict() == {}
    # Frozen, for a checkpoint of an earlier release draws on with them.
    assert drawn[:10] == DRAWN


DRAWN = [3, 3, 2, 7, 6, 4, 8, 8, 3, 3]


def test_frozen_is_passed_on():
    layers = layers_of()
    scheduler = scheduler_of(layers, frozen=True)
    scheduler.before_forward(0)
    assert all(layer.frozen for layer in layers.values())
    scheduler.after_update(0)
    assert not any(layer.frozen for layer in layers.values())


def test_it_needs_an_adapter_that_is_nested():
    with pytest.raises(CombinationError, match="which is not Nested: it lets layers compute with"):
        plan(adapter={"name": "lora:lora", "rank": 8, "alpha": 16})


@pytest.mark.parametrize(
    ("parts", "problem"),
    [
        ({"rank_scheduler": {"ranks": [4, 65]}}, "rank_scheduler.ranks: 65 is above .* largest rank, 64"),
        ({"adapter": {"rank": 8, "published_rank": 9}}, "published_rank: 9 is above .* largest rank, 8"),
        ({"evaluators": [{"name": "rank-sweep", "ranks": [128]}]}, "the ranks of rank-sweep: 128 is above"),
        ({"rank_scheduler": {"ranks": [4], "frozen": True}}, "only the components named by ranks would"),
        ({"adapter": {"rank": 8}, "rank_scheduler": {"ranks": [1, 2]}}, "rank 8 is published, and .* never"),
        (
            {"adapter": {"rank": 8, "published_rank": 4}, "rank_scheduler": {"ranks": [2, 8]}},
            "rank 4 is published, and .* never",
        ),
        (
            {"adapter": {"rank": 8, "rank_pattern": {"q_proj": 4}}, "rank_scheduler": {"frozen": True}},
            "the last component of a site of a lower rank would learn in every step",
        ),
    ],
)
def test_ranks_that_do_not_fit_are_refused_when_they_are_planned(parts, problem):
    with pytest.raises(PlanError, match=problem):
        plan(**parts)


def test_a_published_rank_that_is_drawn_is_planned():
    plan(adapter={"rank": 8, "published_rank": 2}, rank_scheduler={"ranks": [1, 2]})
    plan(adapter={"rank": 8}, rank_scheduler={"ranks": [1, 8]})
    plan(adapter={"rank": 8, "rank_pattern": {"q_proj": 4}}, rank_scheduler={"ranks": [1, 8]})
