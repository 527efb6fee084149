"""Stretches of an arm that are measured on their own: loading, the first step, the steps after it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from harness.memory import memory_of

finished: list[dict[str, Any]] = []
"""The phases of this process so far."""
_open: list[dict[str, Any]] = []


@contextmanager
def phase(name: str) -> Iterator[None]:
    """Measure what happens inside, under ``name``; see `begin`."""
    begin(name)
    try:
        yield
    finally:
        end()


def begin(name: str) -> None:
    """Measure from here on, until `end`: peak memory, wall and CPU seconds.

    The kernel's peak of the resident set starts anew. Phases follow one another, never nested.
    """
    if _open:
        raise ValueError(f"phase {name!r} begins inside {_open[0]['name']!r}")
    with suppress(OSError):  # not in every container; then the peak is that of the whole process so far
        Path("/proc/self/clear_refs").write_text("5")
    memory = memory_of()
    _open.append({"name": name, "before": memory, "start": time.monotonic(), "cpu_s": time.process_time()})


def end() -> None:
    """End the phase that has begun, where there is one."""
    if not _open:
        return
    told = _open.pop()
    finished.append(
        {
            "name": told["name"],
            "start": told["start"],
            "end": time.monotonic(),
            "cpu_s": time.process_time() - told["cpu_s"],
            "before": told["before"],
            "peak_rss": memory_of()["peak_rss"],
        }
    )
