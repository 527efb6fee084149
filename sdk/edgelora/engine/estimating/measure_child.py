"""The inside of `edgelora.engine.estimating.measure`: loads a base, takes two steps, and tells the peaks."""

from __future__ import annotations

import dataclasses
import json
import random
import sys
import tempfile
from array import array
from pathlib import Path
from typing import Any

from edgelora.engine.allocator import return_freed_memory
from edgelora.engine.data import Dataset, Row
from edgelora.engine.data.report import DataReport
from edgelora.engine.estimating.placement import Placement
from edgelora.engine.job import Job
from edgelora.engine.memory import peaks, reset_peaks
from edgelora.engine.report import QuietReporter
from edgelora.engine.train import Surroundings, TrainingLoop
from edgelora.errors import EdgeloraError
from edgelora.plan import Plan, plan_from_document
from edgelora.recipe import DataSource
from edgelora.registry import Registry

STEPS = 2
"""The optimizer's state is there from the end of the first step on."""


def main() -> None:
    """Read a plan, rows and a path from standard input, and write what was measured there."""
    given = json.load(sys.stdin)
    if given["returned"]:
        return_freed_memory()
    answer: dict[str, Any]
    try:
        plan = plan_from_document(given["plan"], Registry.discover())
        with tempfile.TemporaryDirectory(prefix="edgelora-estimate-") as folder:
            answer = _measure(plan, given["rows"], Path(folder))
    except EdgeloraError as error:
        answer = {"refused": {"id": error.id, "problem": error.problem, "fix": error.fix}}
    Path(given["answer"]).write_text(json.dumps(answer))


def _measure(plan: Plan, rows: dict[str, Any], folder: Path) -> dict[str, Any]:
    # As in a run of many micro-batches, the gradients of one are there when the next begins.
    accumulation = min(2, plan.recipe.train.accumulation)
    train = {"accumulation": accumulation, "max_steps": STEPS, "epochs": None}
    recipe = plan.recipe.model_copy(
        update={
            "train": plan.recipe.train.model_copy(update=train),
            "data": (DataSource(path=folder / "random"),),
            "out": folder / "run",
        }
    )
    job = Job(dataclasses.replace(plan, recipe=recipe))
    job.begin(resume=False, overwrite=True)
    dataset = _random_rows(rows, accumulation, job.tokenizer, plan.tasks)
    model = job.load_base()
    model, layers = job.inject(model)
    loading = peaks()
    around = Surroundings(
        job.accelerator, job.folder, QuietReporter(), job.tokenizer, {}, dict, job.check_base
    )
    loop = TrainingLoop(model, layers, job.plan, dataset, around)
    reset_peaks()
    records = [loop.take(step) for step in range(STEPS)]
    stepping = peaks()
    on_gpu = "cuda_allocated" in stepping
    name = "cuda_allocated" if on_gpu else "rss"
    return {
        "on_gpu": on_gpu,
        "loading": loading[name],
        "stepping": stepping[name],
        "step_s": records[-1]["seconds"] * plan.recipe.train.accumulation / accumulation,
        "placement": Placement.of(job.plan).name,
    }


def _random_rows(rows: dict[str, Any], accumulation: int, tokenizer: Any, tasks: tuple[str, ...]) -> Dataset:
    draw = random.Random(0)
    count = rows["count"] * accumulation * STEPS
    made = []
    for number in range(count):
        # Rows of one length take no mask: where those of the run differ, these do.
        length = rows["length"] - (rows["padded"] and number % max(2, rows["count"]) == 1)
        tokens = array("l", (draw.randrange(len(tokenizer)) for _ in range(length)))
        made.append(Row(tokens, tokens, number % len(tasks), f"random:{number}", None, None))
    return Dataset(made, [], tasks, DataReport(()), "sha256:", "sha256:")


if __name__ == "__main__":
    main()
