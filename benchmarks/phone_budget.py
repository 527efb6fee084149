"""The memory of an exact training step in a phone's budget: 256 tokens, batch 1, rank 8, on a CPU.

Random weights, every block its own, prepared in NF4 with double quantization and streamed; adapters and
activations in bfloat16, 8-bit Adam, one row of 256 tokens. What counts is anonymous memory above that of the
process when everything the engine uses is imported and nothing is loaded: pages of the mapped weights belong
to a file and can be dropped by the system at any time.

MeSP (arXiv:2602.13069) claims 136 MB for Qwen2.5-0.5B, MeBP (arXiv:2510.03425) less than 1 GB for 4B models.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from harness import Arm, Goal, Report, interleave, peak
from harness.bases import NoBase, base_on_disk
from harness.shapes import QWEN_05B, QWEN_4B, Shape
from harness.training import train_steps

LENGTH = 256
GOALS = {QWEN_05B.slug: 136e6, QWEN_4B.slug: 1e9}


def step(base: str, steps: int, threads: int, loss_rows: int) -> dict[str, Any]:
    train = {
        "threads": threads,
        "gradient_checkpointing": True,
        "streamed": True,
        "loss_rows": loss_rows,
    }
    changes = {"adapter": {"rank": 8, "alpha": 8}, "train": train}
    return train_steps(base, sequence_length=LENGTH, steps=steps, changes=changes)


def row(shape: Shape, run: dict[str, Any]) -> dict[str, Any]:
    imported = run["result"]["imported"]["anon"]
    steps = [each for name, each in run["phases"].items() if name.startswith("step ")]
    return {
        "shape": shape.name,
        "trainable": run["result"]["trainable_parameters"],
        "imported, anonymous MB": imported / 1e6,
        "loading, above it MB": (run["phases"]["loading"]["peaks"]["anon"] - imported) / 1e6,
        "steps, above it MB": (max(each["peaks"]["anon"] for each in steps) - imported) / 1e6,
        "last checkpoint, above it MB": (run["phases"]["checkpoint"]["peaks"]["anon"] - imported) / 1e6,
        "peak RSS MB": peak(run, "rss") / 1e6,
        "step s": min(each["wall_s"] for each in steps),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=Path, default=Path("build/bench-large"), help="where the bases lie")
    parser.add_argument("--shapes", nargs="+", choices=list(GOALS), default=list(GOALS))
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--loss-rows", type=int, default=16, help="labelled tokens per chunk of the loss")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, help="write the result here as JSON too")
    arguments = parser.parse_args()
    report = Report(
        "phone_budget",
        "Exact gradients in a phone's budget",
        {
            "base": "NF4, double quantization, embeddings bfloat16",
            "computed in": "bfloat16",
            "adapter": "LoRA, rank 8, all linears, bfloat16",
            "optimizer": "AdamW, 8-bit",
            "sequence length": LENGTH,
            "batch": 1,
            "rows per loss chunk": arguments.loss_rows,
            "threads": arguments.threads,
        },
    )
    for shape in (QWEN_05B, QWEN_4B):
        if shape.slug in arguments.shapes:
            measure(shape, report, arguments)
    report.finish(arguments.out)


def measure(shape: Shape, report: Report, arguments: argparse.Namespace) -> None:
    bound = GOALS[shape.slug]
    goal = f"{shape.name}: ≤ {bound / 1e6:,.0f} MB anonymous above the imported runtime, {LENGTH} tokens"
    try:
        base = base_on_disk(shape, arguments.work)
    except NoBase as error:
        report.goals.append(Goal(goal, str(error), None))
        return
    settings = {
        "base": str(base),
        "steps": arguments.steps,
        "threads": arguments.threads,
        "loss_rows": arguments.loss_rows,
    }
    runs = interleave([Arm(shape.name, step, settings)], arguments.rounds)[shape.name]
    report.measured[shape.name] = runs
    report.rows += [row(shape, run) for run in runs]
    # Everything counts, from loading to the last checkpoint.
    above = max(peak(run, "anon") - run["result"]["imported"]["anon"] for run in runs)
    report.goals.append(Goal(goal, f"{above / 1e6:,.0f} MB", above <= bound))


if __name__ == "__main__":
    main()
