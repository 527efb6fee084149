"""Whether the paths that save memory cost quality: litmus scores of each derivative with them on and off.

The recipe is that of ``benchmarks/derivatives.py``: the built-in base, the quickstart's rows, 700 steps of 32
rows. On: fused layers and loss, short rows packed, gradient checkpointing, and the base streamed from a
prepared one, with the derivative's own quantizer where it has one. Off: none of these. The bar: for each
score the means over the seeds differ by no more than the spread (largest less smallest) among the seeds of
the runs with them off.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from derivatives import DERIVATIVES, LITMUS, edgelora, measure, recipe
from harness import Goal, Report

NAMES = ("lora", "qlora", "dora", "adalora", "mtlora", "irqlora")
SETTINGS: dict[str, dict[str, bool]] = {
    "on": {"fused": True, "packing": True, "gradient_checkpointing": True, "streamed": True},
    "off": {"fused": False, "packing": False, "gradient_checkpointing": False, "streamed": False},
}
QUANTIZERS = {"qlora": "nf4", "irqlora": "nf4-icq"}
"""Of the derivatives whose base is quantized."""


def prepare(quantizer: str, folder: Path) -> Path:
    """The built-in base, prepared with a quantizer."""
    out = folder / f"micro-{quantizer}"
    edgelora(folder, "--quiet", "bases", "prepare", "micro", "--quantizer", quantizer, "--out", str(out))
    return out


def run(name: str, seed: int, arm: str, steps: int, folder: Path, bases: dict[str, Path]) -> dict[str, float]:
    """Train one adapter and tell its scores."""
    from edgelora.micro.location import quickstart_data

    document = recipe(name, seed, folder / f"{name}-{seed}-{arm}", quickstart_data(), steps, validate=False)
    document["evaluators"] = ["litmus"]
    document["train"] |= SETTINGS[arm]
    if arm == "on" and name in QUANTIZERS:
        document["base"] = str(bases[QUANTIZERS[name]])
    return measure(document, folder)


def compare(
    name: str, on: list[dict[str, float]], off: list[dict[str, float]]
) -> list[tuple[dict[str, Any], bool]]:
    """A row per score, and whether the arms agree within the spread among seeds."""
    rows = []
    for score in LITMUS:
        with_paths, without = ([each[f"litmus.{score}"] for each in runs] for runs in (on, off))
        spread = max(without) - min(without)
        difference = statistics.mean(with_paths) - statistics.mean(without)
        agrees = abs(difference) <= spread
        row = {
            "derivative": name,
            "score": score,
            "on": f"{statistics.mean(with_paths):.3f}",
            "off": f"{statistics.mean(without):.3f}",
            "difference": f"{difference:+.3f}",
            "seed spread": f"{spread:.3f}",
            "within": "yes" if agrees else "no",
        }
        rows.append((row, agrees))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--derivatives", nargs="+", default=list(NAMES), choices=list(DERIVATIVES))
    parser.add_argument("--seeds", nargs="+", type=int, default=[3407, 1, 2])
    parser.add_argument("--steps", type=int, default=700)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="runs at a time, a thread each")
    parser.add_argument("--out", type=Path, help="write the result here as JSON too")
    arguments = parser.parse_args()
    report = Report(
        "quality_paths",
        "Quality with the memory paths on and off",
        {
            "base": "micro, float32",
            "steps": arguments.steps,
            "batch": 32,
            "longest row": 128,
            "seeds": " ".join(map(str, arguments.seeds)),
            "threads": 1,
        },
    )
    with tempfile.TemporaryDirectory() as temporary, ThreadPoolExecutor(arguments.jobs) as pool:
        folder = Path(temporary)
        wanted = {QUANTIZERS[name] for name in arguments.derivatives if name in QUANTIZERS}
        bases = {quantizer: prepare(quantizer, folder) for quantizer in sorted(wanted)}
        started = {
            (name, arm, seed): pool.submit(run, name, seed, arm, arguments.steps, folder, bases)
            for seed in arguments.seeds
            for name in arguments.derivatives
            for arm in SETTINGS
        }
        for name in arguments.derivatives:
            on, off = (
                [started[name, arm, seed].result() for seed in arguments.seeds] for arm in ("on", "off")
            )
            report.measured[name] = {"on": on, "off": off}
            compared = compare(name, on, off)
            report.rows += [row for row, _ in compared]
            apart = [row["score"] for row, agrees in compared if not agrees]
            goal = f"{name}: scores on and off agree within the seed spread"
            report.goals.append(Goal(goal, ", ".join(apart) or f"all {len(LITMUS)}", not apart))
    report.finish(arguments.out)


if __name__ == "__main__":
    main()
