"""The two orders of a pair, and the split no training may cross."""

from random import Random

import pytest

from edgelora.micro.pairs import (
    HELD_OUT_PERCENT,
    draw_agreeing_decimals,
    draw_conflicting_decimals,
    draw_pair,
    draw_versions,
    is_held_out,
    larger_by_value,
    larger_by_version,
    orders_conflict,
)


def test_the_two_orders_of_the_famous_pair_differ() -> None:
    assert larger_by_value(("9.11", "9.9")) == "9.9"
    assert larger_by_version(("9.11", "9.9")) == "9.11"
    assert orders_conflict(("9.11", "9.9"))


@pytest.mark.parametrize(
    "pair", [("9.11", "9.9"), ("9.9", "9.11"), ("9,11", "9,9"), ("9.9.3", "9.11.0"), ("9.11", "9.9.1")]
)
def test_the_famous_pair_is_held_out_in_every_form(pair) -> None:
    assert is_held_out(pair)


def test_neither_order_nor_separator_moves_a_pair_across_the_split() -> None:
    rng = Random(0)
    for _ in range(500):
        first, second = draw_agreeing_decimals(rng)
        side = is_held_out((first, second))
        assert is_held_out((second, first)) == side
        assert is_held_out((first.replace(".", ","), second.replace(".", ","))) == side


def test_one_pair_in_five_is_held_out() -> None:
    rng = Random(0)
    pairs = {draw_conflicting_decimals(rng) for _ in range(5000)}
    share = sum(map(is_held_out, pairs)) / len(pairs)
    assert abs(share - HELD_OUT_PERCENT / 100) < 0.03


def test_drawn_decimals_conflict_or_agree_as_asked() -> None:
    rng = Random(0)
    assert all(orders_conflict(draw_conflicting_decimals(rng)) for _ in range(1000))
    assert not any(orders_conflict(draw_agreeing_decimals(rng)) for _ in range(1000))


@pytest.mark.parametrize("held_out", [True, False])
def test_drawing_keeps_to_its_side_of_the_split(held_out) -> None:
    rng = Random(0)
    assert all(is_held_out(draw_pair(rng, draw_versions, held_out=held_out)) == held_out for _ in range(500))
