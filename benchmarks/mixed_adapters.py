"""Goal 7: rows of one batch with different adapters, against stock PEFT's ``adapter_names``.

Both arms hold the same model with the same adapters, read from the same files, and compute the same rows:
steps of a decode (one token a row, over a cache) and a prefill (32 tokens a row). A step of the bare base and
one with adapters are taken in turn, so that the overhead, which is the difference of their medians, is one of
the same process at the same time. PEFT's bare base is the model before it is wrapped. Rows of one adapter
stand side by side, or in turns: each row is of another adapter than the one before. First the logits of both
arms are compared.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from harness import Arm, Goal, Report, interleave
from harness.random_adapters import VOCABULARY, dtype_of, random_adapters, save_llama

CACHED = 32
"""Tokens of each row before a decode step."""
PREFILL = 32
HALF_FROM = 16
"""Adapters in a batch from which on the overhead is at most half of PEFT's; below, it is no larger."""
ROUNDING = 0.05
"""How far logits of both may lie apart, of what the adapters change in them."""


def edgelora(base: str, folders: list[str], cases: list[dict[str, Any]], steps: int) -> list[Any]:
    """Overheads of `AdapterSet`, by case."""
    import torch

    from edgelora.engine.base import load_base
    from edgelora.engine.serving import load_adapters

    torch.set_num_threads(1)
    references = {f"a{index}": folder for index, folder in enumerate(folders)}
    adapters = load_adapters(references, base=base, dtype=dtype_of(base))
    bare = load_base(adapters.base.plan)

    def with_rows(names: list[str], step: Callable[[Any], Any]) -> Any:
        with adapters.rows(names):
            return step(adapters.model)

    return [_measure(case, steps, bare, with_rows) for case in cases]


def peft(base: str, folders: list[str], cases: list[dict[str, Any]], steps: int) -> list[Any]:
    """Overheads of stock PEFT's mixed batches, by case."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(1)
    # Frozen as PEFT freezes it: how torch multiplies depends on whether a weight may want a gradient.
    bare = AutoModelForCausalLM.from_pretrained(base, local_files_only=True).requires_grad_(False)
    wrapped = AutoModelForCausalLM.from_pretrained(base, local_files_only=True)
    model = PeftModel.from_pretrained(wrapped, folders[0], adapter_name="a0", autocast_adapter_dtype=False)
    for index, folder in enumerate(folders[1:], start=1):
        model.load_adapter(folder, f"a{index}", autocast_adapter_dtype=False)
    model.eval()

    def with_rows(names: list[str], step: Callable[[Any], Any]) -> Any:
        return step(lambda **inputs: model(adapter_names=names, **inputs))

    return [_measure(case, steps, bare, with_rows) for case in cases]


def _measure(case: dict[str, Any], steps: int, bare: Any, with_rows: Any) -> dict[str, Any]:
    """Medians of steps of the bare base and of the same with adapters, in turn, in CPU and wall seconds."""
    import torch

    names = [f"a{index}" for index in case["adapters_of_rows"]]
    draw = torch.Generator().manual_seed(1)
    tokens = CACHED if case["decode"] else PREFILL
    ids = torch.randint(VOCABULARY, (len(names), tokens), generator=draw)
    taken: dict[str, list[tuple[float, float]]] = {"bare": [], "mixed": []}
    with torch.inference_mode():
        cache = bare(input_ids=ids, use_cache=True).past_key_values if case["decode"] else None

        def step(model: Any) -> Any:
            if cache is None:
                return model(input_ids=ids, use_cache=False).logits
            decoded = model(input_ids=ids[:, :1], past_key_values=cache, use_cache=True).logits
            cache.crop(-1)
            return decoded

        arms = {"bare": lambda: step(bare), "mixed": lambda: with_rows(names, step)}
        logits = {name: arm() for name, arm in arms.items()}
        for _ in range(steps):
            for name, arm in arms.items():
                wall, cpu = time.perf_counter(), time.process_time()
                arm()
                taken[name].append((time.process_time() - cpu, time.perf_counter() - wall))
    medians = {
        f"{name}_{clock}_s": statistics.median(each)
        for name, times in taken.items()
        for clock, each in zip(("cpu", "wall"), zip(*times, strict=True), strict=True)
    }
    return {
        **medians,
        "logits": logits["mixed"][:, -1, :8].float().tolist(),
        "changed": float((logits["mixed"] - logits["bare"]).abs().max()),
    }


def cases_of(counts: Sequence[int], rows: int) -> list[dict[str, Any]]:
    """Decode and prefill at each number of adapters, rows of one side by side, and in turns."""
    found = []
    for decode in (True, False):
        for count in counts:
            beside, turns = (
                [row * count // rows for row in range(rows)],
                [row % count for row in range(rows)],
            )
            for order, adapters in {"side by side": beside, "in turns": turns}.items():
                if order == "side by side" or adapters != beside:
                    case = {"decode": decode, "adapters": count, "order": order, "adapters_of_rows": adapters}
                    found.append(case)
    return found


def mixed(report: Report, work: Path, arguments: argparse.Namespace) -> None:
    """Overheads over the bare base at each number of adapters."""
    base = work / "base"
    linears = save_llama(base, hidden=arguments.hidden, layers=arguments.layers, dtype=arguments.dtype)
    folders = random_adapters(
        work, base, linears, count=max(arguments.adapters), rank=arguments.rank, dtype=arguments.dtype
    )
    cases = cases_of(arguments.adapters, arguments.rows)
    settings = {"base": str(base), "folders": folders, "cases": cases, "steps": arguments.steps}
    runs = interleave([Arm(each.__name__, each, settings) for each in (edgelora, peft)], arguments.rounds)
    report.measured["mixed"] = {name: [run["result"] for run in each] for name, each in runs.items()}
    for number, case in enumerate(cases):
        ours, theirs = ([run["result"][number] for run in runs[arm]] for arm in ("edgelora", "peft"))
        check_same(ours[0], theirs[0], case)
        mine, other = overhead(ours), overhead(theirs)
        phase = "decode, 1 token a row" if case["decode"] else f"prefill, {PREFILL} tokens a row"
        report.rows.append(
            {
                "batch": f"{len(case['adapters_of_rows'])} rows, {phase}",
                "adapters": case["adapters"],
                "rows of one": case["order"],
                "base ms": 1e3 * statistics.median(run["bare_cpu_s"] for run in ours),
                "edgelora overhead ms": 1e3 * mine,
                "peft overhead ms": 1e3 * other,
                "overhead ratio": mine / other,
                "whole step ratio": whole(ours) / whole(theirs),
            }
        )
        bar = 0.5 if case["adapters"] >= HALF_FROM else 1.0
        report.goals.append(
            Goal(
                f"overhead at most {bar:g} of peft's: {case['adapters']} adapters {case['order']}, {phase}",
                f"{mine / other:.2f} ({1e3 * mine:.1f} against {1e3 * other:.1f} ms of CPU time)",
                mine <= bar * other,
            )
        )
    report.notes.append("Times of steps are CPU time; an overhead is a difference of medians in one process.")


def overhead(runs: Sequence[dict[str, Any]]) -> float:
    """CPU seconds a step takes beyond that of the bare base; the median over rounds."""
    return statistics.median(run["mixed_cpu_s"] - run["bare_cpu_s"] for run in runs)


def whole(runs: Sequence[dict[str, Any]]) -> float:
    """CPU seconds of a step with adapters; the median over rounds."""
    return statistics.median(run["mixed_cpu_s"] for run in runs)


def check_same(ours: dict[str, Any], theirs: dict[str, Any], case: dict[str, Any]) -> None:
    """Refuse to compare the times of arms that compute different things."""
    pairs = zip(ours["logits"], theirs["logits"], strict=True)
    difference = max(abs(x - y) for row, other in pairs for x, y in zip(row, other, strict=True))
    if difference > ROUNDING * ours["changed"]:
        raise SystemExit(f"{case}: logits differ by {difference}, adapters change them by {ours['changed']}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--adapters", nargs="+", type=int, default=[1, 4, 8, 16, 64])
    parser.add_argument("--rows", type=int, default=64, help="of a batch")
    parser.add_argument("--hidden", type=int, default=2048)
    parser.add_argument("--layers", type=int, default=1, help="of the model")
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="bfloat16")
    parser.add_argument("--steps", type=int, default=15, help="of each kind in a round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, help="write the results here as JSON too")
    arguments = parser.parse_args()
    report = Report(
        "mixed_adapters",
        "Several adapters at once",
        {
            "shape": f"llama, hidden {arguments.hidden}, {arguments.layers} layers",
            "rank": f"{arguments.rank}, all linears",
            "dtype": arguments.dtype,
            "threads": 1,
            "steps": arguments.steps,
            "rounds": arguments.rounds,
        },
    )
    with tempfile.TemporaryDirectory() as folder:
        mixed(report, Path(folder), arguments)
    report.finish(arguments.out)


if __name__ == "__main__":
    main()
