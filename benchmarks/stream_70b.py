"""One streamed QLoRA step on the shape of Llama-3-70B, on a CPU, in at most 4 GB of anonymous memory.

Random weights, every block its own, prepared in NF4 with double quantization: about 40 GB on disk, which are
deleted afterwards unless ``--keep``. Where the machine has less memory than that, every pass reads the disk.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path
from typing import Any

from harness import Arm, Goal, Report, peak, run_arm
from harness.bases import NoBase, base_on_disk
from harness.shapes import LLAMA_70B
from harness.training import train_steps

GOAL_BYTES = 4e9


def step(base: str, sequence_length: int, threads: int) -> dict[str, Any]:
    train = {"threads": threads, "gradient_checkpointing": True, "streamed": True}
    changes = {"adapter": {"rank": 16, "alpha": 16}, "train": train}
    return train_steps(base, sequence_length=sequence_length, steps=1, changes=changes)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=Path, default=Path("build/bench-large"), help="where the base lies")
    parser.add_argument("--keep", action="store_true", help="leave the base there")
    parser.add_argument("--length", type=int, default=128, help="tokens of the row")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, help="write the result here as JSON too")
    arguments = parser.parse_args()
    report = Report(
        "stream_70b",
        "A 70B model in 4 GB",
        {
            "shape": LLAMA_70B.name,
            "base": "NF4, double quantization, embeddings and head bfloat16",
            "computed in": "bfloat16",
            "adapter": "LoRA, rank 16, all linears, bfloat16",
            "optimizer": "AdamW, 8-bit",
            "sequence length": arguments.length,
            "batch": 1,
            "threads": arguments.threads,
        },
    )
    goal = f"one step at {arguments.length} tokens in ≤ 4 GB anonymous memory"
    try:
        base = base_on_disk(LLAMA_70B, arguments.work)
    except NoBase as error:
        report.goals.append(Goal(goal, str(error), None))
        report.finish(arguments.out)
    settings = {"base": str(base), "sequence_length": arguments.length, "threads": arguments.threads}
    try:
        run = run_arm(Arm("streamed", step, settings))
        size = sum(file.stat().st_size for file in base.iterdir())
    finally:
        if not arguments.keep:
            shutil.rmtree(base)
    taken = run["phases"]["step 0"]
    report.measured["streamed"] = [run]
    report.rows.append(
        {
            "arm": "streamed",
            "base GB on disk": size / 1e9,
            "trainable": run["result"]["trainable_parameters"],
            "peak anonymous GB": peak(run, "anon") / 1e9,
            "peak RSS GiB": peak(run, "rss") / 2**30,
            "step s": taken["wall_s"],
            "CPU s": taken["cpu_s"],
        }
    )
    anon = peak(run, "anon")
    report.goals.append(Goal(goal, f"{anon / 1e9:.2f} GB, {taken['wall_s']:.0f} s", anon <= GOAL_BYTES))
    report.finish(arguments.out)


if __name__ == "__main__":
    main()
