"""The benchmarks' harness measures what it says it measures."""

import mmap
import os

import pytest

from harness import (
    Arm,
    ArmFailed,
    CgroupUnavailable,
    Goal,
    Report,
    drop_from_page_cache,
    interleave,
    median,
    memory_cgroup,
    memory_of,
    phase,
    run_arm,
    table,
    warm_page_cache,
)

MIB = 2**20
SLACK = 8 * MIB
"""What a Python process may move by itself meanwhile."""


def add(a, b):
    return {"sum": a + b, "process": os.getpid()}


def allocate(first_bytes, then_bytes):
    with phase("first"):
        kept = bytearray(first_bytes)
    with phase("then"):
        both = (kept, bytearray(then_bytes))
    return len(both)


def map_file(path):
    with phase("read"), open(path, "rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        seen = sum(mapped[:: mmap.PAGESIZE])
    return seen


def fail():
    raise SystemExit(7)


def fill(size_bytes):
    return len(bytearray(os.urandom(MIB) * (size_bytes // MIB)))


def test_an_arm_runs_in_a_process_of_its_own_and_answers_json():
    run = run_arm(Arm("sum", add, {"a": 2, "b": 3}))
    assert run["result"]["sum"] == 5
    assert run["result"]["process"] != os.getpid()
    assert run["cpu_s"] > 0
    assert run["wall_s"] > 0


def test_an_arm_that_fails_says_which_and_how():
    with pytest.raises(ArmFailed, match="broken ended with 7") as caught:
        run_arm(Arm("broken", fail))
    assert caught.value.returncode == 7


def test_the_environment_of_an_arm_is_its_own():
    run = run_arm(Arm("environment", os_environment, {"name": "ARM"}, {"ARM": "here"}))
    assert run["result"] == "here"
    assert "ARM" not in os.environ


def os_environment(name):
    return os.environ.get(name)


def test_each_phase_shows_the_anonymous_memory_it_took():
    phases = run_arm(Arm("allocate", allocate, {"first_bytes": 64 * MIB, "then_bytes": 128 * MIB}))["phases"]
    first = phases["first"]["peaks"]["peak_rss"] - phases["first"]["before"]["rss"]
    then = phases["then"]["peaks"]["peak_rss"] - phases["first"]["before"]["rss"]
    assert abs(first - 64 * MIB) < SLACK
    assert abs(then - 192 * MIB) < SLACK


def test_the_sampler_sees_anonymous_memory_and_the_kernels_peak():
    run = run_arm(Arm("allocate", allocate, {"first_bytes": 64 * MIB, "then_bytes": 256 * MIB}))
    assert run["peaks"]["anon"] > 200 * MIB
    assert run["peaks"]["peak_rss"] >= run["peaks"]["anon"]


def test_pages_of_a_mapped_file_are_no_anonymous_memory(tmp_path):
    path = tmp_path / "weights"
    path.write_bytes(bytes(96 * MIB))
    read = run_arm(Arm("map", map_file, {"path": str(path)}))["phases"]["read"]
    assert read["peaks"]["peak_rss"] - read["before"]["rss"] > 90 * MIB
    assert read["peaks"]["anon"] - read["before"]["anon"] < SLACK


def test_arms_take_turns_and_their_medians_are_found_by_key():
    order = []
    arms = [Arm(name, add, {"a": 1, "b": 1}, before=lambda name=name: order.append(name)) for name in "ab"]
    runs = interleave(arms, rounds=2)
    assert order == ["a", "b", "a", "b"]
    assert median(runs["a"], "result", "sum") == 2


def test_memory_of_a_process_that_ended_is_refused():
    with pytest.raises(ProcessLookupError):
        memory_of(2**22 + 1)


def test_without_control_groups_the_reason_is_told(tmp_path):
    refused = pytest.raises(CgroupUnavailable, match="no memory cgroup can be made under")
    with refused, memory_cgroup(MIB, tmp_path):
        pass


def test_a_limit_holds_for_the_processes_inside_and_the_group_is_gone_afterwards():
    try:
        with memory_cgroup(96 * MIB) as group:
            small = run_arm(Arm("small", fill, {"size_bytes": 16 * MIB}), cgroup=group)
            assert small["result"] == 16 * MIB
            with pytest.raises(ArmFailed) as caught:
                run_arm(Arm("large", fill, {"size_bytes": 256 * MIB}), cgroup=group)
            assert caught.value.returncode == -9
            assert group.counters()["peak_bytes"] <= 96 * MIB
    except CgroupUnavailable as error:
        pytest.skip(str(error))
    assert not group.folder.exists()


def test_a_dropped_file_is_no_longer_in_memory(tmp_path):
    path = tmp_path / "weights"
    path.write_bytes(b"abc" * MIB)
    drop_from_page_cache([path])
    cold = is_in_memory(path)
    warm_page_cache([path])
    if not is_in_memory(path):
        pytest.skip("this file system keeps nothing in memory")
    assert not cold
    assert path.read_bytes() == b"abc" * MIB


def is_in_memory(path):
    with open(path, "rb") as file:
        try:
            return os.preadv(file.fileno(), [bytearray(4096)], MIB, os.RWF_NOWAIT) > 0
        except BlockingIOError:
            return False
        except OSError as error:
            pytest.skip(f"no reading without waiting here: {error}")


def test_a_missed_goal_ends_with_one_and_everything_is_written(tmp_path, capsys):
    report = Report("b", "A title", {"sequence_length": 128}, rows=[{"arm": "a", "GiB": 1.5}])
    report.goals = [Goal("at most 1 GiB", "1.5 GiB", False), Goal("cold", "no root", None)]
    with pytest.raises(SystemExit) as caught:
        report.finish(tmp_path / "deep" / "b.json")
    assert caught.value.code == 1
    shown = capsys.readouterr().out
    for text in ("sequence length 128", "| a | 1.50 |", "| at most 1 GiB | 1.5 GiB | no |", "not measured"):
        assert text in shown
    assert '"met": false' in (tmp_path / "deep" / "b.json").read_text()


def test_a_table_has_the_keys_of_its_first_row():
    rows = [{"a": 1, "b": None}, {"a": 2000, "b": 0.5}]
    assert table(rows).splitlines()[2:] == ["| 1 | - |", "| 2,000 | 0.50 |"]
