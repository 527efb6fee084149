"""Progress on standard error: a bar on terminals, plain lines elsewhere, nothing when quiet."""

from __future__ import annotations

import sys
import time
from typing import Any, Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


class Reporter(Protocol):
    """Told what happens during a run."""

    def message(self, text: str) -> None:
        """One line about what is being done."""
        ...

    def start(self, first_step: int, total_steps: int) -> None:
        """Training begins."""
        ...

    def step(self, record: dict[str, Any]) -> None:
        """An optimizer step is done; ``record`` is its line in ``metrics.jsonl``."""
        ...

    def stop(self) -> None:
        """Training ended, well or not."""
        ...


class QuietReporter:
    """Says nothing."""

    def message(self, text: str) -> None:
        """Nothing."""

    def start(self, first_step: int, total_steps: int) -> None:
        """Nothing."""

    def step(self, record: dict[str, Any]) -> None:
        """Nothing."""

    def stop(self) -> None:
        """Nothing."""


class PlainReporter:
    """Lines with step, loss and time left, every few seconds."""

    def __init__(self, every_s: float = 5.0) -> None:
        self.every_s = every_s

    def message(self, text: str) -> None:
        """Print the line."""
        print(text, file=sys.stderr, flush=True)

    def start(self, first_step: int, total_steps: int) -> None:
        """Remember when it began."""
        self.first, self.total = first_step, total_steps
        self.began = time.monotonic()
        self.printed = self.began

    def step(self, record: dict[str, Any]) -> None:
        """Print a line when the last one is old enough."""
        now, done = time.monotonic(), record["step"] + 1
        if now - self.printed < self.every_s and done not in (self.first + 1, self.total):
            return
        self.printed = now
        left = (now - self.began) / (done - self.first) * (self.total - done)
        self.message(
            f"step {done}/{self.total}  loss {record['loss']:.4f}  "
            f"{record['tokens_per_second']:.0f} tokens/s  {left:.0f} s left"
        )

    def stop(self) -> None:
        """Nothing to close."""


class BarReporter:
    """A progress bar."""

    def __init__(self) -> None:
        self.console = Console(stderr=True)
        self.progress: Progress | None = None

    def message(self, text: str) -> None:
        """Print the line above the bar."""
        self.console.print(text, highlight=False, markup=False)

    def start(self, first_step: int, total_steps: int) -> None:
        """Draw the bar."""
        columns = (
            TextColumn("training"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("loss {task.fields[loss]:.4f}"),
            TextColumn("{task.fields[speed]:.0f} tokens/s"),
            TimeRemainingColumn(),
        )
        self.progress = Progress(*columns, console=self.console)
        self.task = self.progress.add_task(
            "", total=total_steps, completed=first_step, loss=float("nan"), speed=0
        )
        self.progress.start()

    def step(self, record: dict[str, Any]) -> None:
        """Move the bar."""
        if self.progress is not None:
            self.progress.update(
                self.task,
                completed=record["step"] + 1,
                loss=record["loss"],
                speed=record["tokens_per_second"],
            )

    def stop(self) -> None:
        """Leave the bar as it stands."""
        if self.progress is not None:
            self.progress.stop()


def terminal_reporter(*, quiet: bool = False) -> Reporter:
    """The reporter that fits standard error."""
    if quiet:
        return QuietReporter()
    return BarReporter() if sys.stderr.isatty() else PlainReporter()
