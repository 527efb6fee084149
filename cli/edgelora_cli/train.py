"""``edgelora train``: the main job, from a recipe to a packed adapter."""

from __future__ import annotations

import os
import shlex
from dataclasses import asdict
from pathlib import Path

import click

from edgelora_cli.commands import Command, set_option, threads_option
from edgelora_cli.console import emit, note, settings


@click.command(
    cls=Command,
    short_help="Train, measure and pack the adapter of a recipe.",
    examples="""
    edgelora train recipe.yaml
    edgelora train recipe.yaml --set train.seed=1 --set out=runs/second
    edgelora train recipe.yaml --resume
    """,
)
@click.argument("recipe", type=click.Path(path_type=Path))
@click.option("--resume", is_flag=True, help="Go on from the newest checkpoint in the recipe's 'out'.")
@click.option("--overwrite", is_flag=True, help="Replace a run that is in the recipe's 'out'.")
@set_option
@threads_option
def train(recipe: Path, resume: bool, overwrite: bool, changes: tuple[str, ...], threads: int | None) -> None:
    """Train the adapter RECIPE describes, measure it and pack it into OUT/adapter.

    Ctrl-C saves a checkpoint and exits 130; --resume goes on from it, on a CPU to the same bits.
    """
    from edgelora.recipe import read_recipe
    from edgelora.registry import Registry
    from edgelora_cli.dependencies import need_train_extra

    if resume and overwrite:
        raise click.UsageError("--resume and --overwrite exclude each other")
    if threads is not None:
        changes = (*changes, f"train.threads={threads}")
    wanted = read_recipe(recipe, changes)
    need_train_extra("training")

    from edgelora.engine.report import terminal_reporter
    from edgelora.errors import Interrupted
    from edgelora.run import run
    from edgelora.store import folder_text
    from edgelora_cli.measurements import measurement_table

    reporter = terminal_reporter(quiet=settings().quiet or not _speaks())
    try:
        result = run(wanted, Registry.discover(), resume=resume, overwrite=overwrite, reporter=reporter)
    except Interrupted as error:
        raise Interrupted(error.problem, fix=f"go on with: {_resuming(recipe, changes)}") from error
    if not _speaks():
        return
    document = {
        "folder": str(result.folder),
        "base_measurements": {name: asdict(value) for name, value in result.base_measurements.items()},
        "measurements": {name: asdict(value) for name, value in result.measurements.items()},
        "trainable_parameters": result.trainable_parameters,
        "peak_bytes": dict(result.peak_bytes),
    }
    peak = ", ".join(f"{name} {size / 2**30:.2f} GiB" for name, size in result.peak_bytes.items())
    lines = [measurement_table(result.measurements, result.base_measurements), "", f"peak memory: {peak}"]
    emit(document, "\n".join([*lines, f"adapter: {result.folder}"]))
    folder = folder_text(result.folder)
    note(f"next: edgelora generate --adapter {folder} PROMPT, or edgelora push {folder} NS/NAME")


def _resuming(recipe: Path, changes: tuple[str, ...]) -> str:
    """The command that goes on with the run, to be pasted into a shell."""
    settings = [word for change in changes for word in ("--set", change)]
    return shlex.join(["edgelora", "train", str(recipe), *settings, "--resume"])


def _speaks() -> bool:
    """Under torchrun only the first process has something to say."""
    return os.environ.get("RANK", "0") == "0"
