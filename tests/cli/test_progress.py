import sys

import click
import pytest

from edgelora.transfer import Progress
from edgelora_cli.console import Settings
from edgelora_cli.progress import show_progress


def shown(capsys: pytest.CaptureFixture[str], *steps: Progress, quiet: bool = False) -> str:
    with click.Context(click.Command("pull"), obj=Settings(quiet=quiet)), show_progress() as show:
        for step in steps:
            if show:
                show(step)
    out, err = capsys.readouterr()
    assert out == ""
    return err


def test_a_short_pull_says_nothing_and_a_long_one_a_line_now_and_then(capsys):
    assert shown(capsys, Progress(10**6, 2 * 10**6, 1.0), Progress(2 * 10**6, 2 * 10**6, 2.0)) == ""
    err = shown(capsys, *(Progress(n * 10**6, 40 * 10**6, float(n)) for n in range(1, 41)))
    assert len(err.splitlines()) == 4
    assert err.splitlines()[0] == "fetched 10.0 of 40.0 MB (25 %), 1.0 MB/s, 30 s left"


def test_a_terminal_gets_one_line_that_changes(capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    err = shown(capsys, Progress(10**6, 2 * 10**6, 1.0), Progress(2 * 10**6, 2 * 10**6, 2.0))
    assert err.count("\r") == 2 and err.count("\n") == 1


def test_quiet_is_quiet(capsys):
    assert shown(capsys, Progress(1, 2, 60.0), quiet=True) == ""
