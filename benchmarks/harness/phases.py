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


@contextmanager
def phase(name: str) -> Iterator[None]:
    """Measure what happens inside, under ``name``: peak memory, wall and CPU seconds.

    The kernel's peak of the resident set starts anew with it. Phases follow one another, never nested.
    """
    with suppress(OSError):  # not in every container; then the peak is that of the whole process so far
        Path("/proc/self/clear_refs").write_text("5")
    before, start, cpu = memory_of(), time.monotonic(), time.process_time()
    try:
        yield
    finally:
        end, used = time.monotonic(), time.process_time() - cpu
        finished.append(
            {
                "name": name,
                "start": start,
                "end": end,
                "cpu_s": used,
                "before": before,
                "peak_rss": memory_of()["peak_rss"],
            }
        )
