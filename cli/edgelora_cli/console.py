"""Where output goes: results to stdout, as text or one JSON document; everything else to stderr.

All of it passes through `edgelora_cli.terminal` here, whoever wrote it.
"""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import click

from edgelora_cli.terminal import coloured, one_line, plain

FOR_AUTHORS = (DeprecationWarning, FutureWarning, PendingDeprecationWarning)


@dataclass
class Settings:
    """The flags every command takes; the object of click's context."""

    json: bool = False
    quiet: bool = False
    verbose: bool = False
    offline: bool = False
    yes: bool = False


def settings() -> Settings:
    """Those of the command that is running."""
    return click.get_current_context().ensure_object(Settings)


def emit(document: Any, text: str) -> None:
    """Print a command's result: ``document`` with ``--json``, otherwise ``text``."""
    if settings().json:
        click.echo(plain(_json(_finite(document))))
    elif text:
        click.echo(coloured(text))


def _json(document: Any) -> str:
    return json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False, default=str)


def _finite(value: Any) -> Any:
    """The same with null for NaN and infinity, which JSON cannot say."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value


def note(line: str = "") -> None:
    """Tell a human what is going on, on stderr, unless ``--quiet``."""
    if not settings().quiet:
        click.echo(coloured(line), err=True)


def warn(line: str) -> None:
    """Tell a human what may be wrong, on stderr, even with ``--quiet``."""
    click.echo(f"{style('warning:', fg='yellow')} {plain(line)}", err=True)


@contextmanager
def warnings_in_words() -> Iterator[None]:
    """Inside, what Python warns of is told as `warn` tells it; deprecations only with ``--verbose``."""
    import warnings

    # Here, for other threads warn too, and have no command.
    told = settings()

    def tell(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
        if told.verbose or not issubclass(category, FOR_AUTHORS):
            warn(" ".join(str(message).split()))

    with warnings.catch_warnings():
        warnings.showwarning = tell
        yield


def print_problem(name: str, problem: str, fix: str) -> None:
    """Print what is wrong and what to do about it, on stderr."""
    click.echo(f"{style(f'error[{name}]:', fg='red')} {plain(problem)}\n  fix: {plain(fix)}", err=True)


def print_error(settings: Settings, name: str, problem: str, fix: str, *, exit_code: int) -> None:
    """Print a failure on stderr, and with ``--json`` as the one document on stdout too."""
    print_problem(name, problem, fix)
    if settings.json:
        error = {"id": name, "exit_code": exit_code, "problem": problem, "fix": fix}
        click.echo(plain(_json({"error": error})))


def confirm(question: str) -> None:
    """Ask before something that cannot be undone; ``--yes`` answers.

    Raises:
        click.UsageError: Nobody is there to ask.
        click.Abort: The answer was no.
    """
    if settings().yes:
        return
    if not sys.stdin.isatty():
        raise click.UsageError(f"{question} Nobody is there to answer: pass --yes")
    click.confirm(plain(question), abort=True, err=True)


def style(text: str, *, fg: str | None = None, bold: bool | None = None) -> str:
    """Colour for terminals; click strips it elsewhere, ``NO_COLOR`` strips it everywhere."""
    return text if os.environ.get("NO_COLOR") else click.style(text, fg=fg, bold=bold)


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Columns padded to their widest cell; the last column is not padded. A cell stays in its line."""
    lines = [tuple(header), *(tuple(map(one_line, row)) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    padded = [
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in lines
    ]
    title, *body = [line.rstrip() for line in padded]
    return "\n".join([style(title, bold=True), *body])


def silence_stdout() -> None:
    """Point stdout at nothing, so that Python's own flush at exit has nothing to complain about."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
