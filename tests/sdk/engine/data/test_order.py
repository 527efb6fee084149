from dataclasses import dataclass
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgelora.engine.data import StepOrder
from edgelora.errors import DataError


@dataclass
class Sized:
    input_ids: range


def rows(count, seed=0):
    random = Random(seed)
    return [Sized(range(random.randint(1, 50))) for _ in range(count)]


def flat(step):
    return [row for process in step for micro_batch in process for row in micro_batch]


def epoch(order, number=0):
    start = number * order.steps_per_epoch
    return [order.step(start + position) for position in range(order.steps_per_epoch)]


SPLITS = st.tuples(st.integers(1, 5), st.integers(1, 4), st.integers(1, 3))


@settings(derandomize=True, deadline=None, max_examples=150)
@given(st.integers(3, 200), SPLITS)
def test_every_row_is_dealt_once_per_epoch_and_every_process_gets_one(count, split):
    batch_size, accumulation, processes = split
    order = StepOrder(
        rows(count), batch_size=batch_size, accumulation=accumulation, seed=1, processes=processes
    )
    for number in (0, 1):
        steps = epoch(order, number)
        assert sorted(row for step in steps for row in flat(step)) == list(range(count))
        sizes = [len(flat(step)) for step in steps]
        assert max(sizes) - min(sizes) <= 1
        for step in steps:
            assert len(step) == processes
            assert all(process for process in step)
            micro_batches = [micro_batch for process in step for micro_batch in process]
            assert all(1 <= len(micro_batch) <= batch_size for micro_batch in micro_batches)
            counts = [len(process) for process in step]
            assert max(counts) - min(counts) <= 1


@settings(derandomize=True, deadline=None, max_examples=50)
@given(st.integers(8, 300))
def test_the_rows_of_a_step_do_not_depend_on_how_they_are_dealt(count):
    splits = [(8, 1, 1), (4, 2, 1), (2, 4, 1), (1, 8, 1), (4, 1, 2), (2, 2, 2), (1, 4, 2), (2, 1, 4)]
    dealt = []
    for batch_size, accumulation, processes in splits:
        order = StepOrder(
            rows(count), batch_size=batch_size, accumulation=accumulation, seed=7, processes=processes
        )
        dealt.append([sorted(flat(step)) for number in (0, 1) for step in epoch(order, number)])
    assert all(steps == dealt[0] for steps in dealt)


def test_a_full_step_is_dealt_in_full_micro_batches():
    order = StepOrder(rows(64), batch_size=2, accumulation=4, seed=1, processes=2)
    assert order.steps_per_epoch == 4
    shapes = [[[len(m) for m in process] for process in step] for step in epoch(order)]
    assert shapes == [[[2, 2, 2, 2], [2, 2, 2, 2]]] * 4


def test_steps_per_epoch_counts_the_started_step():
    for count, steps in ((1, 1), (8, 1), (9, 2), (15, 2), (16, 2), (17, 3)):
        order = StepOrder(rows(count), batch_size=2, accumulation=4, seed=1)
        assert order.steps_per_epoch == steps


def test_one_row_per_process_and_step_still_leaves_no_process_empty():
    order = StepOrder(rows(9), batch_size=1, accumulation=1, seed=1, processes=4)
    assert [len(flat(step)) for step in epoch(order)] in ([5, 4], [4, 5])


def test_an_order_resumes_at_any_step():
    first = StepOrder(rows(50), batch_size=2, accumulation=2, seed=3)
    steps = [first.step(index) for index in range(40)]
    second = StepOrder(rows(50), batch_size=2, accumulation=2, seed=3)
    assert [second.step(index) for index in (39, 0, 17)] == [steps[39], steps[0], steps[17]]


def test_seed_and_epoch_change_the_order():
    one = StepOrder(rows(50), batch_size=2, accumulation=2, seed=3)
    other = StepOrder(rows(50), batch_size=2, accumulation=2, seed=4)
    assert epoch(one, 0) != epoch(one, 1) != epoch(other, 1)


def test_the_order_is_the_same_on_every_machine():
    order = StepOrder(
        [Sized(range(length)) for length in (3, 9, 4, 7, 5, 1)], batch_size=2, accumulation=1, seed=3407
    )
    assert [order.step(index) for index in range(4)] == [[[[1, 3]]], [[[4, 2]]], [[[0, 5]]], [[[0, 5]]]]


def test_the_longest_row_comes_first():
    lengths = rows(500)
    lengths[321] = Sized(range(1000))
    assert 321 in flat(StepOrder(lengths, batch_size=2, accumulation=2, seed=1).step(0))


def test_rows_of_a_micro_batch_are_of_like_length():
    lengths = rows(2000)
    order = StepOrder(lengths, batch_size=4, accumulation=2, seed=1)
    padding = total = 0
    for step in epoch(order):
        for micro_batch in step[0]:
            sizes = [len(lengths[row].input_ids) for row in micro_batch]
            padding += max(sizes) * len(sizes) - sum(sizes)
            total += sum(sizes)
    # Without grouping the padding is about half of the tokens.
    assert padding < 0.05 * total


def test_fewer_rows_than_processes_are_refused():
    with pytest.raises(DataError, match="3 training rows cannot be dealt to 4 processes") as caught:
        StepOrder(rows(3), batch_size=1, accumulation=1, seed=1, processes=4)
    assert caught.value.fix == "add rows, or start fewer processes"
