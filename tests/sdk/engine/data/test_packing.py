from dataclasses import dataclass
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from edgelora.engine.data import StepOrder, pack_step, report_packing


@dataclass
class Sized:
    input_ids: range
    task: int = 0


def rows(count, tasks=1, longest=50, seed=0):
    random = Random(seed)
    return [Sized(range(random.randint(1, longest)), random.randrange(tasks)) for _ in range(count)]


def tokens(sequence, of):
    return sum(len(of[index].input_ids) for index in sequence)


SPLITS = st.tuples(st.integers(1, 5), st.integers(1, 4), st.integers(1, 3))


@settings(derandomize=True, deadline=None, max_examples=200)
@given(st.integers(3, 120), st.integers(1, 3), st.integers(50, 200), SPLITS)
def test_a_step_keeps_its_rows_and_every_process_gets_some(count, tasks, max_length, split):
    batch_size, accumulation, processes = split
    every = rows(count, tasks)
    order = StepOrder(every, batch_size=batch_size, accumulation=accumulation, seed=1, processes=processes)
    for number in range(order.steps_per_epoch):
        dealt = order.step(number)
        packed = pack_step(dealt, every, batch_size=batch_size, max_length=max_length)
        assert len(packed) == processes
        assert all(packed)
        sequences = [sequence for process in packed for micro_batch in process for sequence in micro_batch]
        flat = sorted(index for process in dealt for micro_batch in process for index in micro_batch)
        assert sorted(index for sequence in sequences for index in sequence) == flat
        for sequence in sequences:
            assert 0 < tokens(sequence, every) <= max_length
            assert len({every[index].task for index in sequence}) == 1
        assert all(1 <= len(micro_batch) <= batch_size for process in packed for micro_batch in process)
        assert max(map(len, packed)) <= max(map(len, dealt))
        counts = [len(process) for process in packed]
        assert max(counts) - min(counts) <= 1


def one_step(lengths, *, batch_size=1, processes=1, tasks=None):
    every = [
        Sized(range(length), task) for length, task in zip(lengths, tasks or [0] * len(lengths), strict=True)
    ]
    dealt = [[list(range(len(lengths)))[process::processes]] for process in range(processes)]
    packed = pack_step(dealt, every, batch_size=batch_size, max_length=10)
    return [[[tokens(s, every) for s in each] for each in process] for process in packed]


def test_sequences_are_as_few_as_first_fit_finds_and_about_equally_long():
    assert one_step([7, 3, 6, 4, 5, 5]) == [[[10], [10], [10]]]
    assert one_step([6, 6, 2, 2, 2]) == [[[10], [8]]]
    assert one_step([10, 10, 1]) == [[[10], [10], [1]]]
    # Putting each row into the emptiest sequence would need three.
    assert one_step([5, 5, 3, 3, 3]) == [[[10], [9]]]


def test_processes_get_equally_many_sequences():
    assert one_step([4, 4, 4, 4, 4, 4], processes=2) == [[[8], [4]], [[8], [4]]]
    assert one_step([4, 4], processes=2) == [[[4]], [[4]]]
    assert one_step([1, 1, 1, 1], processes=3) == [[[2]], [[1]], [[1]]]


def test_rows_of_two_tasks_share_no_sequence():
    assert one_step([5, 5, 5, 5], tasks=[0, 1, 0, 1]) == [[[10], [10]]]
    assert one_step([2, 2], tasks=[0, 1], batch_size=2) == [[[2, 2]]]


def test_the_packing_is_the_same_on_every_machine():
    every = rows(9, tasks=2, longest=20, seed=3)
    order = StepOrder(every, batch_size=3, accumulation=3, seed=3407)
    packed = pack_step(order.step(0), every, batch_size=3, max_length=40)
    assert packed == [[[[3, 2], [5, 8, 0]], [[4, 1], [7, 6]]]]


def test_alpaca_shaped_rows_pack_well():
    random = Random(0)
    every = [Sized(range(min(512, int(random.lognormvariate(4.4, 0.6)) + 1))) for _ in range(4096)]
    order = StepOrder(every, batch_size=8, accumulation=8, seed=1)
    limits = {"batch_size": 8, "max_length": 512}
    report = report_packing(map(order.step, range(order.steps_per_epoch)), every, **limits)
    assert report.rows == 4096
    assert report.tokens == sum(len(row.input_ids) for row in every)
    assert report.tokens > 0.95 * report.computed
    assert report.largest <= 8 * 512


def test_the_report_says_how_well_rows_pack():
    every = [Sized(range(length)) for length in (6, 5, 3, 5)]
    report = report_packing([[[[0, 1], [2, 3]]]], every, batch_size=2, max_length=11)
    assert report.line() == ("packing: 4 rows in 2 sequences, 95% full, at most 20 tokens at a time")
