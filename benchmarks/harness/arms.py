"""Arms of a comparison: each a function called in a fresh process, interleaved over rounds."""

from __future__ import annotations

import inspect
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.cgroup import MemoryCgroup
from harness.memory import MemorySampler

HERE = Path(__file__).resolve().parents[1]


class ArmFailed(RuntimeError):
    """An arm's process ended without a result; the text says how."""

    def __init__(self, text: str, returncode: int) -> None:
        super().__init__(text)
        self.returncode = returncode
        """As `subprocess` gives it: -9 where the kernel killed it for its memory."""


@dataclass(frozen=True, slots=True)
class Arm:
    """One side of a comparison."""

    name: str
    function: Callable[..., Any]
    """Of a benchmark's module, at its top level; what it answers is JSON."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Its keyword arguments, JSON."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """Set on top of this process's."""
    before: Callable[[], None] | None = None
    """Called in this process before each start: empties a cache, for example."""


def run_arm(arm: Arm, *, cgroup: MemoryCgroup | None = None) -> dict[str, Any]:
    """Call an arm's function in a fresh process, under the memory limit of ``cgroup`` where one is given.

    Returns:
        ``result`` of the function; ``wall_s`` and ``cpu_s`` (user and system) of the whole process, start
        and imports included; ``peaks`` in bytes (``rss``, ``anon``, ``file``; ``peak_rss`` is the kernel's);
        ``longest_gap_s`` between two samples; ``phases`` by name, with their own ``wall_s``, ``cpu_s``,
        ``before`` and ``peaks``.

    Raises:
        ArmFailed: It ended with an error or was killed.
    """
    if arm.before is not None:
        arm.before()
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "result.json"
        command = [sys.executable, "-m", "harness.child", inspect.getfile(arm.function)]
        command += [arm.function.__name__, json.dumps(dict(arm.settings)), str(out)]
        if cgroup is not None:
            command = cgroup.inside(command)
        path = os.pathsep.join([str(HERE), *filter(None, [os.environ.get("PYTHONPATH")])])
        environment = {**os.environ, **arm.environment, "PYTHONPATH": path}
        start = time.monotonic()
        # What an arm prints belongs to the progress, not to the result on standard output.
        with subprocess.Popen(command, env=environment, stdout=sys.stderr) as process:
            with MemorySampler(process.pid) as sampler:
                _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
        wall_s = time.monotonic() - start
        if not out.exists():
            raise ArmFailed(f"{arm.name} ended with {process.returncode}", process.returncode)
        answer = json.loads(out.read_text())
    return {
        "result": answer["result"],
        "wall_s": wall_s,
        "cpu_s": usage.ru_utime + usage.ru_stime,
        "peaks": sampler.peaks(),
        "longest_gap_s": sampler.longest_gap_s(),
        "phases": {each["name"]: _phase(each, sampler) for each in answer["phases"]},
    }


def interleave(arms: Sequence[Arm], rounds: int) -> dict[str, list[dict[str, Any]]]:
    """Run every arm once per round, in turn, so that whatever else the machine does slows all alike."""
    runs: dict[str, list[dict[str, Any]]] = {arm.name: [] for arm in arms}
    for number in range(rounds):
        for arm in arms:
            print(f"round {number + 1} of {rounds}: {arm.name}", file=sys.stderr)
            runs[arm.name].append(run_arm(arm))
    return runs


def median(runs: Sequence[Mapping[str, Any]], *path: str) -> float:
    """The median over runs of one figure, found by its keys: ``median(runs, "phases", "step", "wall_s")``."""
    return statistics.median(_at(run, path) for run in runs)


def peak(run: Mapping[str, Any], kind: str) -> int:
    """Bytes at the peak of a whole arm, imports and loading included.

    Args:
        run: As `run_arm` gives it.
        kind: ``"rss"``, as the kernel kept it, or ``"anon"`` or ``"file"``, as sampled.
    """
    stretches = [run, *run["phases"].values()]
    name = "peak_rss" if kind == "rss" else kind
    return max(int(each["peaks"].get(name, 0)) for each in stretches)


def _phase(told: dict[str, Any], sampler: MemorySampler) -> dict[str, Any]:
    sampled = sampler.peaks(told["start"], told["end"])
    return {
        "wall_s": told["end"] - told["start"],
        "cpu_s": told["cpu_s"],
        "before": told["before"],
        "peaks": {**sampled, "peak_rss": told["peak_rss"]},
    }


def _at(value: Any, path: Sequence[str]) -> float:
    for key in path:
        value = value[key]
    return float(value)
