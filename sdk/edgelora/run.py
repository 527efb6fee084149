"""The main job: one recipe, from data to an adapter."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edgelora.plan import make_plan
from edgelora.recipe import Recipe
from edgelora.registry import Registry

if TYPE_CHECKING:
    from edgelora.engine.report import Reporter
    from edgelora.manifest import Manifest
    from edgelora.protocols import Measurement


@dataclass(frozen=True, slots=True)
class RunResult:
    """What a run leaves."""

    folder: Path
    """The adapter directory."""
    manifest: Manifest
    base_measurements: Mapping[str, Measurement]
    """Of the bare base; empty unless the recipe sets ``train.evaluate_base``."""
    measurements: Mapping[str, Measurement]
    trainable_parameters: int
    peak_bytes: Mapping[str, int]
    """``rss``, and on a GPU ``cuda_allocated`` and ``cuda_reserved``."""


def run(
    recipe: Recipe,
    registry: Registry,
    *,
    resume: bool = False,
    overwrite: bool = False,
    reporter: Reporter | None = None,
) -> RunResult:
    """Train, evaluate and pack.

    Args:
        recipe: What to do.
        registry: The installed plugins.
        resume: Go on from the newest checkpoint in the recipe's ``out``.
        overwrite: Replace a run that is there.
        reporter: Told of the progress; silent by default.

    Raises:
        EdgeloraError: Anything wrong with the recipe, the base, the data or the run; see `edgelora.errors`.
    """
    plan = make_plan(recipe, registry)  # light: fails here if anything is misnamed or illegal

    from edgelora.engine.job import Job

    job = Job(plan, reporter)
    with job.lock():
        checkpoint = job.begin(resume=resume, overwrite=overwrite)
        dataset = job.load_data()
        job.settle(dataset, checkpoint)
        model = job.load_base()
        base_measurements = job.evaluate_base(model, dataset)
        model, layers = job.inject(model)
        job.train(model, layers, dataset, checkpoint)
        measurements = job.evaluate(model, layers, dataset)
        manifest = job.pack(model, layers, dataset, base_measurements, measurements)
    return RunResult(
        job.folder.adapter, manifest, base_measurements, measurements, job.trainable, job.peak_bytes
    )
