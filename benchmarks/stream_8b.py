"""A QLoRA step on the shape of Llama-3.1-8B, streamed from disk a block at a time, on a CPU.

Random weights, every block its own, prepared in NF4 with double quantization; adapters of rank 16 on all
linears. The arms are the engine's own training loop in fresh processes: checkpointed (the same prepared base
mapped and kept), streamed with a warm page cache, and streamed with the base dropped from the page cache
before each step. Then one step in a memory cgroup of 2 GiB, which counts the page cache too; one of 2,048
tokens; and one of the settings of Yugopuspito et al. 2024 (batch 2, accumulation 4), for the hours of a run.
Beside them stands the same step by PEFT and bitsandbytes, as documented and with everything in bfloat16.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path
from typing import Any

from harness import (
    Arm,
    ArmFailed,
    CgroupUnavailable,
    Goal,
    Report,
    drop_from_page_cache,
    interleave,
    memory_cgroup,
    peak,
    run_arm,
    warm_page_cache,
)
from harness.bases import NoBase, base_on_disk, weights_of
from harness.peers import peft_steps
from harness.shapes import LLAMA_8B
from harness.training import train_steps

GIB = 2**30
LENGTH = 128
LONG = 2048
RUNS = (60, 500, 6470)
"""Optimizer steps: a demonstration, a small data set, an epoch of 51,760 rows in batches of 8."""


def step(
    base: str, sequence_length: int, steps: int, threads: int, train: dict[str, Any], is_cold: bool = False
) -> dict[str, Any]:
    files = weights_of(Path(base))
    if not is_cold:
        warm_page_cache(files)
    settings = {"threads": threads, "gradient_checkpointing": True, **train}
    changes = {"adapter": {"rank": 16, "alpha": 16}, "train": settings}
    return train_steps(
        base,
        sequence_length=sequence_length,
        steps=steps,
        changes=changes,
        before_step=(lambda: drop_from_page_cache(files)) if is_cold else None,
    )


def row(name: str, length: int, run: dict[str, Any]) -> dict[str, Any]:
    return {
        "arm": name,
        "sequence length": length,
        "peak RSS GiB": peak(run, "rss") / GIB,
        "peak anonymous GB": peak(run, "anon") / 1e9,
        "first step s": run["phases"]["step 0"]["wall_s"],
        "later steps s": later(run) if "step 1" in run["phases"] else None,
        "CPU s of a step": run["phases"]["step 0"]["cpu_s"],
    }


def later(run: dict[str, Any]) -> float:
    """Median seconds of the steps after the first, of which there must be one."""
    steps = [each["wall_s"] for name, each in run["phases"].items() if name.startswith("step ")]
    return statistics.median(steps[1:])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=Path, default=Path("build/bench-large"), help="where the base lies")
    parser.add_argument("--rounds", type=int, default=1, help="of the arms that are compared in time")
    parser.add_argument("--steps", type=int, default=4, help="per arm; the first is told by itself")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--peers", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--out", type=Path, help="write the result here as JSON too")
    arguments = parser.parse_args()
    report = Report(
        "stream_8b",
        "An 8B model on 2 GiB",
        {
            "shape": LLAMA_8B.name,
            "base": "NF4, double quantization, embeddings and head bfloat16",
            "computed in": "bfloat16",
            "adapter": "LoRA, rank 16, all linears, bfloat16",
            "optimizer": "AdamW, 8-bit",
            "batch": 1,
            "threads": arguments.threads,
            "rounds": arguments.rounds,
        },
    )
    try:
        base = base_on_disk(LLAMA_8B, arguments.work)
    except NoBase as error:
        report.notes.append(f"skipped: {error}")
        report.finish(arguments.out)
    settings = {"base": str(base), "steps": arguments.steps, "threads": arguments.threads}
    compare(report, settings, arguments.rounds)
    limit(report, {**settings, "steps": 2})
    lengthen(report, {**settings, "steps": 1})
    if arguments.peers:
        stand_beside(report, {**settings, "steps": 2})
    report.finish(arguments.out)


def compare(report: Report, settings: dict[str, Any], rounds: int) -> None:
    """The base kept in memory against streamed, warm and cold; all with gradient checkpointing."""
    short = {**settings, "sequence_length": LENGTH}
    arms = [
        Arm("checkpointed", step, {**short, "train": {"streamed": False}}),
        Arm("streamed, warm", step, {**short, "train": {"streamed": True}}),
        Arm("streamed, cold", step, {**short, "train": {"streamed": True}, "is_cold": True}),
    ]
    runs = interleave(arms, rounds)
    report.measured |= runs
    report.rows += [row(name, LENGTH, run) for name, each in runs.items() for run in each]
    seconds = {name: statistics.median(map(later, each)) for name, each in runs.items()}
    warm = runs["streamed, warm"]
    rss, anon = (max(peak(run, kind) for run in warm) for kind in ("rss", "anon"))
    at = f"at {LENGTH} tokens"
    report.goals += [
        Goal(f"streamed, warm: peak RSS ≤ 2 GiB {at}", f"{rss / GIB:.2f} GiB", rss <= 2 * GIB),
        Goal(f"streamed, warm: ≤ 1.2 GB anonymous {at}", f"{anon / 1e9:.2f} GB", anon <= 1.2e9),
    ]
    for name, bound in (("streamed, warm", 1.10), ("streamed, cold", 1.25)):
        ratio = seconds[name] / seconds["checkpointed"]
        goal = f"{name}: ≤ {bound} × the checkpointed step {at}"
        report.goals.append(Goal(goal, f"{ratio:.2f} ×", ratio <= bound))


def limit(report: Report, settings: dict[str, Any]) -> None:
    """The same step where everything, page cache too, must fit into 2 GiB."""
    goal = f"a step at {LENGTH} tokens completes in a memory cgroup of 2 GiB"
    settings = {**settings, "sequence_length": LENGTH, "train": {"streamed": True}, "is_cold": True}
    try:
        with memory_cgroup(2 * GIB) as group:
            run = run_arm(Arm("streamed, in 2 GiB", step, settings), cgroup=group)
            run["cgroup"] = group.counters()
    except CgroupUnavailable as error:
        report.goals.append(Goal(goal, str(error), None))
        return
    except ArmFailed as error:
        report.goals.append(Goal(goal, str(error), False))
        return
    report.measured["streamed, in 2 GiB"] = [run]
    report.rows.append(row("streamed, in 2 GiB", LENGTH, run))
    report.goals.append(Goal(goal, f"{later(run):.0f} s a step", True))
    report.notes.append(
        f"The cgroup counted a peak of {run['cgroup']['peak_bytes'] / GIB:.2f} GiB with the page cache."
    )


def lengthen(report: Report, settings: dict[str, Any]) -> None:
    """A long row, and the hours of whole runs."""
    settings = {**settings, "train": {"streamed": True}}
    run = run_arm(Arm("streamed, long", step, {**settings, "sequence_length": LONG}))
    report.measured["streamed, long"] = [run]
    report.rows.append(row("streamed, long", LONG, run))
    rss = peak(run, "rss")
    goal = f"streamed: peak RSS ≤ 3 GiB at {LONG:,} tokens"
    report.goals.append(Goal(goal, f"{rss / GIB:.2f} GiB", rss <= 3 * GIB))
    train = {"streamed": True, "batch_size": 2, "accumulation": 4}
    run = run_arm(Arm("batch 2 × 4", step, {**settings, "sequence_length": LENGTH, "train": train}))
    report.measured["batch 2 × 4"] = [run]
    report.rows.append(row("streamed, batch 2 × 4", LENGTH, run))
    seconds = run["phases"]["step 0"]["wall_s"]
    hours = ", ".join(f"{steps:,} steps {steps * seconds / 3600:,.1f} h" for steps in RUNS)
    per_token = seconds / (8 * LENGTH)
    report.notes.append(
        f"At {per_token:.3f} s a token, with batch 2, accumulation 4 and rows of {LENGTH} tokens: {hours}."
    )


def stand_beside(report: Report, settings: dict[str, Any]) -> None:
    """The step of PEFT and bitsandbytes, all of the base in memory."""
    for name, canonical in (("peft, as documented", True), ("peft, all bfloat16", False)):
        peer = {**settings, "sequence_length": LENGTH, "rank": 16, "canonical": canonical}
        try:
            run = run_arm(Arm(name, peft_steps, peer))
        except ArmFailed as error:
            report.notes.append(f"{name}: {error}")
            continue
        report.measured[name] = [run]
        report.rows.append(row(name, LENGTH, run))


if __name__ == "__main__":
    main()
