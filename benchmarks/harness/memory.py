"""Memory of a process as Linux counts it, sampled from outside so that the process is undisturbed."""

from __future__ import annotations

import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from types import TracebackType

INTERVAL_S = 0.004
"""Between samples; a spike that is shorter may be missed in what the kernel keeps no peak of."""
FIELDS = {"VmRSS": "rss", "RssAnon": "anon", "RssFile": "file", "VmHWM": "peak_rss"}


@dataclass(frozen=True, slots=True)
class Sample:
    """A process at one moment."""

    at: float
    """Of ``time.monotonic()``, which all processes of a machine share."""
    bytes: dict[str, int]
    """``rss``, ``anon``, ``file``, and ``peak_rss`` as the kernel keeps it."""


def memory_of(process: int | str = "self") -> dict[str, int]:
    """Bytes of a process: ``rss``, its parts ``anon`` and ``file``, and ``peak_rss`` since the last reset.

    Raises:
        ProcessLookupError: It has ended.
    """
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except FileNotFoundError as error:
        raise ProcessLookupError(process) from error
    found = {
        FIELDS[name]: int(value.split()[0]) * 1024
        for name, _, value in (line.partition(":") for line in lines)
        if name in FIELDS
    }
    if len(found) < len(FIELDS):
        raise ProcessLookupError(process)
    return found


class MemorySampler:
    """Samples a process from a thread of this one, inside a ``with`` block or until the process ends."""

    def __init__(self, process: int, interval_s: float = INTERVAL_S) -> None:
        self.process = process
        self.interval_s = interval_s
        self.samples: list[Sample] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> MemorySampler:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()

    def peaks(self, start: float = 0.0, end: float = float("inf")) -> dict[str, int]:
        """The largest of each field between two moments of ``time.monotonic()``; empty without samples."""
        within = [sample.bytes for sample in self.samples if start <= sample.at <= end]
        return {name: max(each[name] for each in within) for name in FIELDS.values()} if within else {}

    def longest_gap_s(self) -> float:
        """Between two samples: a busy machine lets the thread wait, and peaks may pass unseen meanwhile."""
        return max((then.at - now.at for now, then in pairwise(self.samples)), default=float("inf"))

    def _watch(self) -> None:
        with suppress(ProcessLookupError):
            while not self._stop.is_set():
                self.samples.append(Sample(time.monotonic(), memory_of(self.process)))
                self._stop.wait(self.interval_s)
