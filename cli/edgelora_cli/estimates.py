"""``edgelora estimate``: what a recipe will cost in memory, disk and time, before it runs."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgelora.arithmetic import CLASSIC_STEPS, bits_per_parameter, weights_gb
from edgelora_cli.commands import Command, set_option, threads_option
from edgelora_cli.console import emit, note, settings

if TYPE_CHECKING:
    from edgelora.engine.estimating.estimate import Estimate
    from edgelora.engine.estimating.measure import Measured
    from edgelora.plan import Plan


@click.command(
    cls=Command,
    short_help="Tell what a recipe will cost: memory, disk, hours.",
    examples="""
    edgelora estimate recipe.yaml
    edgelora estimate recipe.yaml --set base=./config.json --set derivative=qlora
    edgelora estimate recipe.yaml --measure
    """,
)
@click.argument("recipe", type=click.Path(path_type=Path))
@click.option("--measure", is_flag=True, help="Take two real steps in a process of their own, and compare.")
@set_option
@threads_option
def estimate(recipe: Path, measure: bool, changes: tuple[str, ...], threads: int | None) -> None:
    """Tell what training RECIPE will cost, from the shapes of its base alone.

    The base may be a folder, a cached Hub id, or the path of a config.json: no weights are read. A training
    step of the engine's own code runs on tensors without memory; what it would have taken is added up.
    """
    from edgelora.plan import make_plan
    from edgelora.recipe import read_recipe
    from edgelora.registry import Registry
    from edgelora_cli.dependencies import need_train_extra

    if threads is not None:
        changes = (*changes, f"train.threads={threads}")
    plan = make_plan(read_recipe(recipe, changes), Registry.discover())
    need_train_extra("an estimate")

    from edgelora.engine.estimating.estimate import data_of, rows_of
    from edgelora.engine.estimating.estimate import estimate as estimate_plan
    from edgelora.engine.estimating.measure import measure_step
    from edgelora.errors import ModelError
    from edgelora_cli.estimate_text import estimate_text, measured_text

    try:
        found = estimate_plan(plan)
    except ModelError as error:
        if not measure:
            raise
        # What cannot run on shapes may well run.
        note(error.problem)
        _require_weights(plan)
        taken = measure_step(plan, rows_of(plan, data_of(plan))[0])
        emit({"measured": _measured(taken)}, measured_text(taken))
        return
    if measure:
        _require_weights(plan, found)
    measured = measure_step(found.settled(plan), found.rows) if measure else None
    emit(_document(found, measured), estimate_text(found, measured))


def _require_weights(plan: Plan, found: Estimate | None = None) -> None:
    """Refuse to measure what has no weights; the estimate is told to people all the same."""
    from edgelora.engine.base import locate_base
    from edgelora.errors import BaseNotFound, ModelError
    from edgelora.manifest.base_identity import weights_files
    from edgelora_cli.estimate_text import estimate_text

    try:
        weights_files(locate_base(plan.recipe.base, plan.recipe.revision))
    except (BaseNotFound, ModelError) as error:
        if found is not None and not settings().json:
            emit({}, estimate_text(found, None))
        raise type(error)(f"--measure needs the weights: {error.problem}", fix=error.fix) from error


def _document(found: Estimate, measured: Measured | None) -> dict[str, Any]:
    document = asdict(found) | {"budget": found.budget, "fits": found.fits, "chosen": found.chosen}
    del document["choice"]
    for each, memory in zip(document["memory"], found.memory, strict=True):
        each |= {"placement": asdict(memory.placement), "name": memory.placement.name}
        each |= {"peak": memory.peak, "stepping": memory.stepping, "anonymous": memory.anonymous}
    bits = bits_per_parameter(found.parameters, found.trainable)
    return document | {
        "hours": {
            name: {steps: each.hours(steps) for steps in CLASSIC_STEPS}
            for name, each in found.durations.items()
        },
        "bits_per_parameter": {name: asdict(each) | {"sum": each.total} for name, each in bits.items()},
        "weights_gb": weights_gb(found.parameters),
        "measured": None if measured is None else _measured(measured),
    }


def _measured(measured: Measured) -> dict[str, Any]:
    return asdict(measured) | {"peak": measured.peak}
