"""One dry step of the real engine in a process of its own, to hold an estimate to."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edgelora.engine.base import locate_base
from edgelora.engine.estimating.step import Rows
from edgelora.errors import ModelError
from edgelora.plan import Plan

SAMPLE_EVERY_S = 0.005


@dataclass(frozen=True, slots=True)
class Measured:
    """What two optimizer steps really took.

    Attributes:
        loading: Peak bytes until the base was loaded and adapted: the resident set, or allocated on a GPU.
        stepping: Peak bytes of the steps.
        anonymous: Of these, the process's own memory; 0 on a GPU and where the system does not tell.
        step_s: Seconds of the second optimizer step.
        placement: Of the base: ``resident``, ``checkpointed`` or ``streamed``.
    """

    loading: int
    stepping: int
    anonymous: int
    step_s: float
    placement: str

    @property
    def peak(self) -> int:
        """The most of both."""
        return max(self.loading, self.stepping)


def measure_step(plan: Plan, rows: Rows) -> Measured:
    """Take two steps of a plan on random tokens in a fresh process. Nothing is left behind.

    Args:
        plan: Its base must be there whole.
        rows: The largest micro-batch.

    Raises:
        BaseNotFound: There are no weights.
        ModelError: The process failed, or was killed, for its memory most likely.
    """
    locate_base(plan.recipe.base, plan.recipe.revision)
    command = [sys.executable, "-m", "edgelora.engine.estimating.measure_child"]
    document = json.dumps({"plan": plan.as_document(), "rows": asdict(rows)})
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        sampler = _Sampler(process.pid)
        sampler.start()
        answer, _ = process.communicate(document)
        sampler.join()
    if process.returncode:
        raise ModelError(
            f"the step in a process of its own ended with {process.returncode}, at "
            f"{sampler.largest:,} bytes of anonymous memory",
            fix="look at what it printed above; -9 is the kernel's answer to too little memory",
        )
    found: dict[str, Any] = json.loads(answer)
    anonymous = 0 if found.pop("on_gpu") else sampler.largest
    return Measured(anonymous=anonymous, **found)


class _Sampler(threading.Thread):
    """The largest anonymous memory of a process until it ends."""

    def __init__(self, process: int) -> None:
        super().__init__(daemon=True)
        self.status = Path(f"/proc/{process}/status")
        self.largest = 0
        self.ended = threading.Event()

    def run(self) -> None:
        """Sample until there is nothing to sample."""
        with suppress(OSError, StopIteration):
            while True:
                lines = self.status.read_text().splitlines()
                line = next(line for line in lines if line.startswith("RssAnon:"))
                self.largest = max(self.largest, int(line.split()[1]) * 1024)
                self.ended.wait(SAMPLE_EVERY_S)
