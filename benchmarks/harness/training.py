"""Steps of the engine's own training loop on rows of random tokens, measured phase by phase."""

from __future__ import annotations

import importlib
import shutil
import sys
import tempfile
from array import array
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

from harness.memory import memory_of
from harness.phases import begin, end


def train_steps(
    base: str,
    *,
    sequence_length: int,
    steps: int,
    changes: dict[str, Any],
    before_step: Callable[[], None] | None = None,
) -> dict[str, Any]:
    """Train for some steps on a base, as ``edgelora train`` does from loading to the last checkpoint.

    The phases are ``imports``, ``loading`` (the base is identified, loaded and adapted), ``step 0``,
    ``step 1``, …, and ``checkpoint``.

    Args:
        base: Its folder.
        sequence_length: Tokens of each row, all of them learned.
        steps: Optimizer steps.
        changes: Of the recipe, by section: ``{"adapter": {"rank": 16}, "train": {"batch_size": 1}}``.
        before_step: Called before each step, outside its phase.

    Returns:
        The losses, trainable parameters, dtypes, and bytes when everything was imported.
    """
    begin("imports")
    from edgelora.engine.job import Job

    model_type = _model_type(Path(base))
    for name in ("edgelora.layers.nf4", f"transformers.models.{model_type}.modeling_{model_type}"):
        importlib.import_module(name)
    end()
    imported = memory_of()

    out = Path(tempfile.mkdtemp(prefix="edgelora-bench-"))
    begin("loading")
    try:
        job = Job(_plan(base, sequence_length, steps, changes, out), PhaseReporter(before_step))
        with job.lock():
            job.begin(resume=False, overwrite=True)
            model = job.load_base()
            dataset = _random_rows(model.config.vocab_size, sequence_length, steps, job.plan)
            model, layers = job.inject(model)
            job.train(model, layers, dataset, None)
            end()
        records = _records(out)
    finally:
        shutil.rmtree(out)
    learned = [value for value in model.parameters() if value.requires_grad]
    return {
        "losses": [record["loss"] for record in records],
        "seconds": [record["seconds"] for record in records],
        "trainable_parameters": sum(value.numel() for value in learned),
        "dtypes": {"computed in": job.plan.recipe.train.dtype, "adapter": str(learned[0].dtype)},
        "threads": job.conditions["threads"],
        "imported": imported,
    }


class PhaseReporter:
    """A reporter of the engine that makes each optimizer step a phase."""

    def __init__(self, before_step: Callable[[], None] | None) -> None:
        self.before_step = before_step

    def message(self, text: str) -> None:
        """Tell it on standard error."""
        print(text, file=sys.stderr, flush=True)

    def start(self, first_step: int, total_steps: int) -> None:
        """Loading has ended."""
        self.total = total_steps
        end()
        self._begin(first_step)

    def step(self, record: dict[str, Any]) -> None:
        """A step has ended."""
        end()
        self.message(f"step {record['step']}: loss {record['loss']:.3f}, {record['seconds']:.1f} s")
        self._begin(record["step"] + 1)

    def stop(self) -> None:
        """All steps have ended, and so has the last checkpoint."""
        end()

    def _begin(self, step: int) -> None:
        if step == self.total:
            begin("checkpoint")
            return
        if self.before_step is not None:
            self.before_step()
        begin(f"step {step}")


def _plan(base: str, sequence_length: int, steps: int, changes: dict[str, Any], out: Path) -> Any:
    from edgelora.plan import make_plan
    from edgelora.recipe import make_recipe
    from edgelora.registry import Registry

    train = {
        "max_steps": steps,
        "batch_size": 1,
        "accumulation": 1,
        "max_length": sequence_length,
        "dtype": "bfloat16",
        "adapter_dtype": "bfloat16",
        "optimizer": "adamw-8bit",
    }
    document = {
        "derivative": "qlora",
        "base": base,
        "data": [{"path": str(out / "random.jsonl")}],
        "evaluators": [],
        "out": str(out / "run"),
        **{name: value for name, value in changes.items() if name != "train"},
        "train": train | changes.get("train", {}),
    }
    return make_plan(make_recipe(document), Registry.discover())


def _random_rows(vocabulary: int, length: int, steps: int, plan: Any) -> Any:
    from edgelora.engine.data import Dataset, Row
    from edgelora.engine.data.report import DataReport

    draw, settings = Random(0), plan.recipe.train
    rows = []
    for number in range(steps * settings.batch_size * settings.accumulation):
        ids = array("i", (draw.randrange(vocabulary) for _ in range(length)))
        rows.append(Row(ids, array("i", ids), 0, f"random:{number}", None, None))
    return Dataset(rows, [], ("main",), DataReport(()), "sha256:random", "sha256:none")


def _records(out: Path) -> list[dict[str, Any]]:
    import json

    lines = (out / "run" / "metrics.jsonl").read_text().splitlines()
    return [record for record in map(json.loads, lines) if "loss" in record]


def _model_type(base: Path) -> str:
    import json

    return str(json.loads((base / "config.json").read_text())["model_type"])
