"""What a run shows."""

import io
import sys

from edgelora.engine.report import BarReporter, PlainReporter, QuietReporter, terminal_reporter

RECORD = {"step": 0, "loss": 1.25, "tokens_per_second": 10.0}


def drive(reporter):
    reporter.message("loading")
    reporter.start(0, 2)
    reporter.step(RECORD)
    reporter.step(RECORD | {"step": 1})
    reporter.stop()


def test_plain_lines_go_to_standard_error_with_step_loss_and_time_left(capsys):
    drive(PlainReporter())
    captured = capsys.readouterr()
    assert captured.out == ""
    lines = captured.err.splitlines()
    assert lines[0] == "loading"
    assert lines[1].startswith("step 1/2  loss 1.2500  10 tokens/s")
    assert lines[-1].endswith("0 s left")


def test_plain_lines_are_rationed(capsys):
    reporter = PlainReporter(every_s=60)
    reporter.start(0, 100)
    for step in range(100):
        reporter.step(RECORD | {"step": step})
    assert len(capsys.readouterr().err.splitlines()) == 2


def test_the_bar_draws_on_a_terminal(monkeypatch):
    terminal = io.StringIO()
    reporter = BarReporter()
    monkeypatch.setattr(reporter.console, "file", terminal)
    drive(reporter)
    assert "loading" in terminal.getvalue()
    assert "2/2" in terminal.getvalue()


def test_quiet_is_quiet(capsys):
    drive(QuietReporter())
    assert capsys.readouterr() == ("", "")


def test_the_reporter_fits_the_stream(monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    assert isinstance(terminal_reporter(), BarReporter)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: False, raising=False)
    assert isinstance(terminal_reporter(), PlainReporter)
    assert isinstance(terminal_reporter(quiet=True), QuietReporter)
