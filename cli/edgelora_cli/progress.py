"""How far a long command is, on stderr: on a terminal one line that changes, elsewhere one now and then."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from edgelora_cli.console import settings

if TYPE_CHECKING:
    from edgelora.transfer import Progress

_LINE_EVERY_S = 10.0
_REDRAW_EVERY_S = 0.2


@contextmanager
def show_progress(verb: str = "fetched") -> Iterator[Callable[[Progress], None] | None]:
    """What to tell about progress; None with ``--quiet``. Threads may call it, one at a time.

    Args:
        verb: What happened to the bytes that are done.
    """
    if settings().quiet:
        yield None
        return
    # The settings of a command are known in its own thread only, so they are asked here.
    is_terminal = sys.stderr.isatty()
    every_s = _REDRAW_EVERY_S if is_terminal else _LINE_EVERY_S
    last_s = 0.0
    is_open = False

    def show(progress: Progress) -> None:
        nonlocal last_s, is_open
        is_done = progress.done_bytes >= progress.total_bytes
        if progress.elapsed_s - last_s < every_s and not (is_done and is_terminal and last_s):
            return
        last_s = progress.elapsed_s
        line = f"{verb} {_line(progress)}"
        if is_terminal:
            click.echo(f"\r\x1b[K{line}", err=True, nl=False)
            is_open = True
        else:
            click.echo(line, err=True)

    try:
        yield show
    finally:
        if is_open:
            click.echo(err=True)


def _line(progress: Progress) -> str:
    total = max(progress.total_bytes, progress.done_bytes, 1)
    rate = progress.done_bytes / progress.elapsed_s if progress.elapsed_s > 0 else 0.0
    left_s = (total - progress.done_bytes) / rate if rate else 0.0
    return (
        f"{progress.done_bytes / 1e6:,.1f} of {total / 1e6:,.1f} MB "
        f"({100 * progress.done_bytes // total} %), {rate / 1e6:.1f} MB/s, {left_s:.0f} s left"
    )
