"""What learning decimals after versions takes away of versions: C-LoRA against LoRA after LoRA.

The first adapter is a LoRA trained on versions. Two go on from it and learn decimals, the same rows in the
same order from the same start: C-LoRA, and the same adapter with a penalty of 0, which is sequential LoRA of
the same size. Forgetting is exact match on held-out versions before less that after, asked of the same
questions; the margin is what sequential LoRA forgets more, paired by seed, with Student's 95 % interval over
the seeds.

Rank, learning rate and steps are the same for both. The penalty was chosen on other seeds (``--seeds 11 12
--penalties 100 300 1000``). The base model's misconception is planted: it answers decimals as versions.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from derivatives import measure, micro_training
from edgelora.micro.corpus import Question, held_out_questions, training_questions

STUDENT = (math.inf, math.inf, 12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)
"""97.5 % quantiles of Student's t for the mean of n values, by n."""
ROWS = 2000
ASKED = 500
PENALTY = 1e3


def write(questions: list[Question], path: Path) -> Path:
    """Alpaca rows."""
    rows = [{"instruction": each.prompt, "input": "", "output": each.answer} for each in questions]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def write_rows(folder: Path) -> dict[str, Path]:
    """What is learned and what is asked; no pair is in both."""
    return {
        "versions": write(training_questions("versions", ROWS, seed=0), folder / "versions.jsonl"),
        "decimals": write(training_questions("decimals_conflict", ROWS, seed=0), folder / "decimals.jsonl"),
        "old": write(held_out_questions("versions", ASKED, seed=0), folder / "old.jsonl"),
        "new": write(held_out_questions("decimals_conflict", ASKED, seed=0), folder / "new.jsonl"),
    }


def recipe(rows: Path, out: Path, seed: int, settings: argparse.Namespace) -> dict[str, Any]:
    """One training; the caller adds what differs."""
    return {
        "base": "micro",
        "data": [{"path": str(rows), "task": "learned"}],
        "evaluators": [],
        "train": micro_training(settings.steps, settings.learning_rate, seed),
        "out": str(out),
    }


def first_task(rows: dict[str, Path], folder: Path, seed: int, settings: argparse.Namespace) -> Path:
    """LoRA on versions; the folder of the adapter."""
    adapter = {"rank": settings.rank, "alpha": 2 * settings.rank}
    out = folder / f"versions-{seed}"
    measure(
        {**recipe(rows["versions"], out, seed, settings), "derivative": "lora", "adapter": adapter}, folder
    )
    return out / "adapter"


def second_task(
    rows: dict[str, Path], folder: Path, seed: int, penalty: float, settings: argparse.Namespace
) -> dict[str, float]:
    """C-LoRA on decimals after versions; what it knows of both."""
    adapter = {"rank": settings.rank, "alpha": 2 * settings.rank, "penalty": penalty}
    document = recipe(rows["decimals"], folder / f"decimals-{seed}-{penalty:g}", seed, settings)
    document |= {
        "derivative": "clora",
        "adapter": adapter,
        "past": [str(folder / f"versions-{seed}" / "adapter")],
        "evaluators": [{"name": "forgetting", "tasks": ["versions"]}, "exact-match"],
    }
    document["data"] += [
        {"path": str(rows["old"]), "task": "versions", "held_out": 1},
        {"path": str(rows["new"]), "task": "decimals", "held_out": 1},
    ]
    found = measure(document, folder)
    return {
        "before": found["versions.before"],
        "forgetting": found["versions.forgetting"],
        "versions": found["versions.exact_match"],
        "decimals": found["decimals.exact_match"],
        "trainable_parameters": found["trainable_parameters"],
    }


def interval(values: list[float]) -> tuple[float, float, float]:
    """Mean, and Student's 95 % interval of it."""
    mean = statistics.mean(values)
    half = (
        STUDENT[len(values)] * statistics.stdev(values) / math.sqrt(len(values)) if values[1:] else math.inf
    )
    return mean, mean - half, mean + half


def table(results: dict[str, list[dict[str, float]]]) -> str:
    """An arm a row: means over seeds, and the margin to sequential LoRA."""
    lines = [
        "| adapter | versions before | after | forgetting | decimals | forgets less by | decimals differ |",
        "|---|---|---|---|---|---|---|",
    ]
    sequential = results["0"]
    for penalty, runs in results.items():
        cells = [statistics.mean(run[name] for run in runs) for name in ("before", "versions")]
        learned = (f"{statistics.mean(run[name] for run in runs):.3f}" for name in ("forgetting", "decimals"))
        name = "sequential LoRA" if runs is sequential else f"C-LoRA, λ = {penalty}"
        row = [name, *(f"{each:.3f}" for each in cells), *learned, "-", "-"]
        if runs is not sequential:
            pairs = list(zip(sequential, runs, strict=True))
            less = interval([old["forgetting"] - new["forgetting"] for old, new in pairs])
            differs = interval([new["decimals"] - old["decimals"] for old, new in pairs])
            row[-2:] = [f"{mean:.3f} [{low:.3f}, {high:.3f}]" for mean, low, high in (less, differs)]
        lines.append("| " + " | ".join(row) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=[3407, 1, 2, 3, 4])
    parser.add_argument("--penalties", nargs="+", type=float, default=[PENALTY], help="of C-LoRA (λ)")
    parser.add_argument("--steps", type=int, default=300, help="of each task")
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="runs at a time, a thread each")
    parser.add_argument("--out", type=Path, help="write the results here as JSON too")
    settings = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary, ThreadPoolExecutor(settings.jobs) as pool:
        folder = Path(temporary)
        rows = write_rows(folder)
        list(pool.map(lambda seed: first_task(rows, folder, seed, settings), settings.seeds))
        started = {
            (penalty, seed): pool.submit(second_task, rows, folder, seed, penalty, settings)
            for seed in settings.seeds
            for penalty in (0.0, *settings.penalties)
        }
        results = {
            f"{penalty:g}": [started[penalty, seed].result() for seed in settings.seeds]
            for penalty in (0.0, *settings.penalties)
        }
    if settings.out:
        settings.out.parent.mkdir(parents=True, exist_ok=True)
        asked = {name: getattr(settings, name) for name in ("seeds", "steps", "rank", "learning_rate")}
        settings.out.write_text(json.dumps({**asked, "results": results}, indent=2) + "\n")
    print(f"seeds {settings.seeds}, {settings.steps} steps of 32 rows for each task\n\n{table(results)}")


if __name__ == "__main__":
    main()
