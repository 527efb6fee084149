"""Table I of Yugopuspito et al. 2024 with measured columns: every derivative on the built-in base.

Each derivative is trained by ``edgelora train`` with the same rows, seeds and budget. What the method is made
of differs, and so does the learning rate: it was chosen on a validation split (``--validate``: a tenth of the
training rows, never the held-out pairs), or is LoRA's where a method computes like it. The base model's
misconception is planted: conflict pairs show whether a method corrects it, not how good a model is.

The paper's own columns, in its words, stand beside: quantization, dynamic rank selection.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import yaml

DERIVATIVES: dict[str, dict[str, Any]] = {
    "lora": {"adapter": {"rank": 16, "alpha": 32}, "learning_rate": 5e-3},
    "qlora": {"adapter": {"rank": 16, "alpha": 32}, "learning_rate": 5e-3},
    "dora": {"adapter": {"rank": 16, "alpha": 32}, "learning_rate": 5e-3},
    "adalora": {
        "adapter": {"rank": 24, "alpha": 48},
        "rank_scheduler": {"target_rank": 16},
        "learning_rate": 2e-2,
    },
    "olora": {"adapter": {"rank": 16, "alpha": 32}, "learning_rate": 5e-4},
    "mtlora": {"adapter": {"rank": 12, "alpha": 24, "task_rank": 4, "task_alpha": 8}, "learning_rate": 5e-3},
    "irqlora": {"adapter": {"rank": 16, "alpha": 32}, "learning_rate": 2e-3},
    "bottleneck": {"adapter": {"rank": 64, "alpha": 64}, "learning_rate": 5e-3},
    "bitfit": {"learning_rate": 5e-2},
    "full": {"learning_rate": 1e-3},
    # Without a past it is LoRA, and its penalty is 0; benchmarks/forgetting.py has what it is for.
    "clora": {"adapter": {"rank": 16, "alpha": 32}, "learning_rate": 5e-3},
    "gradient-importance": {"adapter": {"rank": 16, "alpha": 32}, "learning_rate": 1e-3},
    "accuracy-scaled": {"adapter": {"rank": 16, "alpha": 32}, "by_task": True, "learning_rate": 2e-3},
    "reslora": {"adapter": {"rank": 16, "alpha": 32}, "learning_rate": 5e-3},
    "reslora-bs": {"adapter": {"rank": 16, "alpha": 32}, "learning_rate": 5e-3},
    "reslora-ms": {"adapter": {"rank": 16, "alpha": 32}, "learning_rate": 5e-3},
    "qdylora": {"adapter": {"rank": 16, "alpha": 32}, "learning_rate": 5e-3},
    "hira": {"adapter": {"rank": 16}, "learning_rate": 3e-2},
}
PAPER = {
    "lora": ("-", "-"),
    "qlora": ("yes", "no"),
    "dora": ("-", "-"),
    "adalora": ("no", "yes"),
    "olora": ("no", "no"),
    "mtlora": ("no", "no"),
    "irqlora": ("no", "no"),
    "bottleneck": ("-", "-"),
    "bitfit": ("-", "-"),
    "full": ("-", "-"),
    "clora": ("-", "-"),
    "gradient-importance": ("-", "-"),
    "accuracy-scaled": ("-", "-"),
    "reslora": ("no", "no"),
    "reslora-bs": ("no", "no"),
    "reslora-ms": ("no", "no"),
    "qdylora": ("yes", "yes"),
    "hira": ("-", "-"),
}
"""Quantization and dynamic rank selection as the paper's Table I has them; it lists neither LoRA nor DoRA."""
TASKS = {
    "decimals": ("Which number", "Which one is larger", "Bilangan manakah", "Mana yang lebih besar"),
    "versions": ("Which version", "Which release", "Versi manakah", "Rilis mana"),
    "sequences": ("Continue the sequence", "Lanjutkan barisan"),
}
"""Of a derivative that is for several, by how a question starts; the others are alarms."""
UNFOLDED = ("full", "bottleneck")
"""Have no layers that fold, and `merge-error` refuses them."""
LITMUS = ("decimals_conflict", "decimals_agree", "versions", "sequences", "fibonacci")


def micro_training(steps: int, learning_rate: float, seed: int) -> dict[str, Any]:
    """How all comparisons on the built-in base train: batches of 32 rows, one thread."""
    return {
        "max_steps": steps,
        "batch_size": 32,
        "accumulation": 1,
        "learning_rate": learning_rate,
        "schedule": "cosine",
        "warmup": 0.05,
        "max_length": 128,
        "seed": seed,
        "threads": 1,
    }


def recipe(
    derivative: str, seed: int, out: Path, data: Path, steps: int, *, validate: bool
) -> dict[str, Any]:
    settings = dict(DERIVATIVES[derivative])
    learning_rate = settings.pop("learning_rate")
    evaluators = ["exact-match"] if validate else ["litmus", "merge-error", "quantization", "ranks"]
    if derivative in UNFOLDED:
        evaluators = [name for name in evaluators if name != "merge-error"]
    sources = [{"path": str(data), "held_out": 0.1 if validate else 0.0}]
    train = {}
    if settings.pop("by_task", False):
        # Measured on the way on a tenth of the rows, which are not trained on.
        sources = [
            {"path": str(path), "task": task, "held_out": 0.1}
            for task, path in split_by_task(data, out.parent / f"{out.name}-data").items()
        ]
        evaluators = list(dict.fromkeys([*evaluators, "exact-match"]))
        train["evaluate_every"] = max(1, steps // 5)
    return {
        "derivative": derivative,
        "base": "micro",
        **settings,
        "data": sources,
        "evaluators": evaluators,
        "train": micro_training(steps, learning_rate, seed) | train,
        "out": str(out),
    }


def split_by_task(data: Path, folder: Path) -> dict[str, Path]:
    """The rows of each task as a file of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    rows: dict[str, list[str]] = {}
    for line in data.read_text().splitlines():
        question = json.loads(line)["instruction"]
        task = next((name for name, starts in TASKS.items() if question.startswith(starts)), "alarms")
        rows.setdefault(task, []).append(line)
    paths = {task: folder / f"{task}.jsonl" for task in rows}
    for task, path in paths.items():
        path.write_text("\n".join(rows[task]) + "\n")
    return paths


def edgelora(folder: Path, *arguments: str) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "edgelora_cli", *arguments, "--json"],
        env={**os.environ, "OMP_NUM_THREADS": "1", "EDGELORA_HOME": str(folder / "home")},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def measure(document: dict[str, Any], folder: Path) -> dict[str, float]:
    """Train one adapter and tell its figures."""
    out = Path(document["out"])
    out.parent.mkdir(parents=True, exist_ok=True)
    path = out.parent / f"{out.name}.yaml"
    path.write_text(yaml.safe_dump(document))
    trained = edgelora(folder, "--quiet", "train", str(path), "--overwrite")
    figures = {name: each["value"] for name, each in trained["measurements"].items()}
    steps = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    weights = sum(file.stat().st_size for file in (out / "adapter").glob("*.safetensors"))
    # What folds only approximately is measured in each of its ways; the nearest is shown. Without held-out
    # rows it is measured on a probe.
    approximate = ("main.merge_error_", "main.probe_error_")
    if ways := [value for name, value in figures.items() if name.startswith(approximate)]:
        figures["main.merge_error"] = min(ways)
    return figures | {
        "trainable_parameters": trained["trainable_parameters"],
        "peak_rss_mib": trained["peak_bytes"]["rss"] / 2**20,
        "tokens_per_second": statistics.median(step["tokens_per_second"] for step in steps if "loss" in step),
        "adapter_bytes": weights,
    }


def exact_match(run: dict[str, float]) -> float:
    """Of held-out rows, the mean over tasks."""
    return statistics.mean(value for name, value in run.items() if name.endswith(".exact_match"))


def table(results: dict[str, list[dict[str, float]]]) -> str:
    """Mean and spread (largest less smallest) over seeds, a derivative a row."""

    def cell(runs: list[dict[str, float]], name: str, form: str) -> str:
        values = [run[name] for run in runs if name in run]
        if not values:
            return "-"
        spread = max(values) - min(values)
        return format(statistics.mean(values), form) + (f" ±{spread / 2:{form}}" if spread else "")

    columns = {
        **{f"litmus.{row}": (row.removeprefix("decimals_"), ".3f") for row in LITMUS},
        "quantization.bits_per_parameter": ("bits/weight", ".2f"),
        "ranks.mean": ("mean rank", ".1f"),
        "trainable_parameters": ("trainable", ",.0f"),
        "adapter_bytes": ("adapter bytes", ",.0f"),
        "peak_rss_mib": ("peak RSS MiB", ".0f"),
        "tokens_per_second": ("tokens/s", ",.0f"),
        "main.merge_error": ("merge error", ".0e"),
    }
    header = ["derivative", "paper: quantized, dynamic rank", *(title for title, _ in columns.values())]
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    for name, runs in results.items():
        cells = [cell(runs, column, form) for column, (_, form) in columns.items()]
        lines.append("| " + " | ".join([name, ", ".join(PAPER[name]), *cells]) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--derivatives", nargs="+", default=list(DERIVATIVES), choices=list(DERIVATIVES))
    parser.add_argument("--seeds", nargs="+", type=int, default=[3407, 1, 2])
    parser.add_argument("--steps", type=int, default=700)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="runs at a time, a thread each")
    parser.add_argument("--validate", action="store_true", help="measure on a tenth of the rows, held out")
    parser.add_argument(
        "--set", nargs="+", default=[], metavar="KEY=VALUE", help="learning_rate=1e-3 adapter.alpha=8"
    )
    parser.add_argument("--out", type=Path, help="write the results here as JSON too")
    arguments = parser.parse_args()
    from edgelora.micro.location import quickstart_data

    for change in arguments.set:
        key, value = change.split("=")
        for name in arguments.derivatives:
            settings = DERIVATIVES[name]
            *path, last = key.split(".")
            for part in path:
                settings = settings.setdefault(part, {})
            settings[last] = yaml.safe_load(value)

    with tempfile.TemporaryDirectory() as temporary, ThreadPoolExecutor(arguments.jobs) as pool:
        folder = Path(temporary)
        # Seeds outermost: what else the machine does slows all derivatives alike.
        started = {
            (name, seed): pool.submit(
                measure,
                recipe(
                    name, seed, folder / f"{name}-{seed}", quickstart_data(), arguments.steps,
                    validate=arguments.validate,
                ),
                folder,
            )
            for seed in arguments.seeds
            for name in arguments.derivatives
        }  # fmt: skip
        results = {
            name: [started[name, seed].result() for seed in arguments.seeds] for name in arguments.derivatives
        }
    if arguments.out:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps({"seeds": arguments.seeds, "results": results}, indent=2) + "\n")
    if arguments.validate:
        for name, runs in results.items():
            print(name, " ".join(f"{exact_match(run):.3f}" for run in runs))
    else:
        print(f"seeds {arguments.seeds}, {arguments.steps} steps: mean ±half the spread\n\n{table(results)}")


if __name__ == "__main__":
    main()
