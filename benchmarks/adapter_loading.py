"""Goal 7: how long it takes to put an adapter beside others, to switch to it, and to take it away again.

Ours is `AdapterSet.add`, from a folder to rows that use it: as ever, the manifest, the digests of the bytes
that are used and the trust policy are checked. PEFT's is ``load_adapter``, which checks nothing. The largest
part of ours is the digest, which takes time by the size of the file: the goal is for a small model's, and the
table has larger ones beside it.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from harness import Arm, Goal, Report, interleave
from harness.random_adapters import dtype_of, random_adapters, save_llama

LOAD_MS, SWITCH_MS = 5.0, 1.0
TIMES = 15
"""Of each action in a round."""


def edgelora(base: str, folders: list[str], times: int) -> dict[str, list[float]]:
    """Seconds of `AdapterSet`."""
    import torch

    from edgelora.engine.serving import load_adapters

    torch.set_num_threads(1)
    adapters = load_adapters({"kept": folders[0]}, base=base, dtype=dtype_of(base))
    return _measure(
        times,
        load=lambda: adapters.add("new", folders[1]),
        switch=lambda: adapters.switch("new"),
        back=lambda: adapters.switch("kept"),
        remove=lambda: adapters.remove("new"),
    )


def peft(base: str, folders: list[str], times: int) -> dict[str, list[float]]:
    """Seconds of stock PEFT."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(1)
    wrapped = AutoModelForCausalLM.from_pretrained(base, local_files_only=True)
    model = PeftModel.from_pretrained(wrapped, folders[0], adapter_name="kept", autocast_adapter_dtype=False)
    return _measure(
        times,
        load=lambda: model.load_adapter(folders[1], "new", autocast_adapter_dtype=False),
        switch=lambda: model.set_adapter("new"),
        back=lambda: model.set_adapter("kept"),
        remove=lambda: model.delete_adapter("new"),
    )


def _measure(times: int, **actions: Callable[[], Any]) -> dict[str, list[float]]:
    taken: dict[str, list[float]] = {name: [] for name in actions}
    for _ in range(times):
        for name, action in actions.items():
            start = time.perf_counter()
            action()
            taken[name].append(time.perf_counter() - start)
    return taken


def loading(report: Report, work: Path, layers: int, arguments: argparse.Namespace) -> None:
    """One size of model: both arms, a row for each of their actions, and the goals."""
    base = work / "base"
    linears = save_llama(base, hidden=arguments.hidden, layers=layers, dtype=arguments.dtype)
    folders = random_adapters(work, base, linears, count=2, rank=arguments.rank, dtype=arguments.dtype)
    settings = {"base": str(base), "folders": folders, "times": TIMES}
    arms = [Arm(each.__name__, each, settings) for each in (edgelora, peft)]
    runs = interleave(arms, arguments.rounds)
    report.measured[f"{layers} layers"] = {
        name: [run["result"] for run in each] for name, each in runs.items()
    }
    size = (Path(folders[1]) / "adapter_model.safetensors").stat().st_size / 1e6
    taken = {
        action: [_milliseconds(runs[arm.name], action) for arm in arms]
        for action in ("load", "switch", "remove")
    }
    report.rows += [
        {"layers": layers, "file MB": size, "action": action, "edgelora ms": mine, "peft ms": other}
        for action, (mine, other) in taken.items()
    ]
    bars = {"switch": SWITCH_MS} | ({"load": LOAD_MS} if layers == min(arguments.layers) else {})
    for action, bar in bars.items():
        mine, other = taken[action]
        figure = f"{mine:.2f} ms (peft: {other:.2f})"
        report.goals.append(
            Goal(f"{action} of an adapter of {size:.1f} MB takes at most {bar:g} ms", figure, mine <= bar)
        )


def _milliseconds(runs: list[dict[str, Any]], action: str) -> float:
    return 1e3 * statistics.median(time for run in runs for time in run["result"][action])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--layers", nargs="+", type=int, default=[2, 16], help="of the models")
    parser.add_argument("--hidden", type=int, default=2048)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="bfloat16")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, help="write the results here as JSON too")
    arguments = parser.parse_args()
    report = Report(
        "adapter_loading",
        "Loading, switching and removing adapters",
        {
            "shape": f"llama, hidden {arguments.hidden}",
            "rank": f"{arguments.rank}, all linears",
            "dtype": arguments.dtype,
            "threads": 1,
            "times": TIMES,
            "rounds": arguments.rounds,
        },
    )
    for layers in arguments.layers:
        with tempfile.TemporaryDirectory() as folder:
            loading(report, Path(folder), layers, arguments)
    report.notes.append("Wall time, medians, one adapter being there already; files in the page cache.")
    report.finish(arguments.out)


if __name__ == "__main__":
    main()
