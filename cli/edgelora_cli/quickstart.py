"""``edgelora quickstart``: the whole job on the built-in model, without a network, with every step shown."""

from __future__ import annotations

import time
from pathlib import Path

import click

from edgelora_cli.commands import Command, go_offline, threads_option
from edgelora_cli.console import emit, note, settings, style

PLANTED = (
    "The base's mistake is planted: its corpus answers 'which number is larger' by the order of versions,\n"
    "as larger models have been seen to do. It is a toy to watch the whole job on, not a benchmark."
)


@click.command(
    cls=Command,
    short_help="Watch the whole job, offline, in minutes.",
    examples="""
    edgelora quickstart
    edgelora quickstart --derivative qlora --out /tmp/quickstart-qlora
    """,
)
@click.option(
    "--derivative",
    type=click.Choice(["lora", "qlora"]),
    default="lora",
    show_default=True,
    help="What to train.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("quickstart-out"),
    show_default=True,
    help="The folder for everything the quickstart writes.",
)
@threads_option
def quickstart(derivative: str, out: Path, threads: int | None) -> None:
    """Train, measure, publish, pull, verify and apply an adapter on the built-in model, without a network.

    The base says that 9.11 is larger than 9.9; an adapter trained on other pairs corrects it. A second run
    reuses the adapter of the first. A folder that holds other files is refused. Exits 10 when the result is
    not as good as promised.
    """
    from edgelora_cli.dependencies import need_train_extra

    need_train_extra("the quickstart")
    go_offline()
    started = time.monotonic()

    from edgelora_cli.quickstart_steps import Quickstart

    job = Quickstart(out.absolute(), derivative, threads, quiet=settings().quiet)
    _head(1, "The base model answers")
    note(job.ask_base())
    _head(2, f"Train a {derivative} adapter on pairs that leave this one out, and measure before and after")
    note(job.train())
    _head(3, "The adapter answers, in this process")
    note(job.ask_adapter())
    _head(4, "Push it to a mirror, which is a folder")
    note(job.push())
    _head(5, "Pull it back and verify every byte")
    note(job.pull())
    _head(6, "Apply what was pulled in a fresh process")
    note(job.ask_in_a_fresh_process())
    _head(7, f"Before and after, in {time.monotonic() - started:.0f} s")
    if settings().json:
        job.check_promises()
    emit(job.document(), f"{job.table()}\n\n{PLANTED}\n\n{job.places()}")
    job.check_promises()


def _head(number: int, text: str) -> None:
    note(f"\n{style(f'{number}/7', fg='cyan')} {style(text, bold=True)}")
