"""One dry step of the real engine in a process of its own, to hold an estimate to."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from edgelora.engine.base import locate_base
from edgelora.engine.estimating.step import Rows
from edgelora.engine.memory import anonymous_bytes
from edgelora.errors import ModelError, OutOfMemory, every_error
from edgelora.plan import Plan
from edgelora.sizes import size_text

SAMPLE_EVERY_S = 0.005
STANDARD_ERROR = 2
"""The file descriptor, whatever ``sys.stderr`` is."""


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
        plan: Its base must be there whole, and lies where the plan says: a memory budget chooses nothing.
        rows: The largest micro-batch.

    Raises:
        BaseNotFound: There are no weights.
        OutOfMemory: The system killed the process for its memory.
        EdgeloraError: As training would raise, of the base, its quantizer and its adapter.
        ModelError: The process failed.
    """
    locate_base(plan.recipe.base, plan.recipe.revision)
    command = [sys.executable, "-m", "edgelora.engine.estimating.measure_child"]
    # The placement is settled. Under a budget, a run returns what it frees; see `edgelora.engine.allocator`.
    within_budget = plan.recipe.memory_budget is not None
    plan = replace(plan, recipe=plan.recipe.model_copy(update={"memory_budget": None}))
    with tempfile.TemporaryDirectory(prefix="edgelora-estimate-") as folder:
        answer = Path(folder) / "measured.json"
        given = {"plan": plan.as_document(), "rows": asdict(rows), "returned": within_budget}
        document = json.dumps(given | {"answer": str(answer)})
        # What it imports may print: that goes where this process's messages go.
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=STANDARD_ERROR, text=True) as process:
            sampler = _Sampler(process.pid)
            sampler.start()
            process.communicate(document)
            sampler.join()
        check_ending(process.returncode, sampler.largest)
        found: dict[str, Any] = json.loads(answer.read_text())
    if refused := found.get("refused"):
        kind = next(each for each in every_error() if each.id == refused["id"])
        raise kind(refused["problem"], fix=refused["fix"])
    anonymous = 0 if found.pop("on_gpu") else sampler.largest
    return Measured(anonymous=anonymous, **found)


def check_ending(code: int, largest: int) -> None:
    """Refuse what a process ended with.

    Args:
        code: As `subprocess` tells it: below 0 it was killed by that signal.
        largest: Bytes of anonymous memory it had at most.

    Raises:
        OutOfMemory: It was killed outright.
        ModelError: It failed.
    """
    if code == -signal.SIGKILL:
        raise OutOfMemory(
            "the step in a process of its own was killed by the system, as it does when memory runs out, at "
            f"{size_text(largest)} of its own memory",
            fix="set memory_budget to what there is, or take a smaller base, batch or length",
        )
    if code:
        raise ModelError(
            f"the step in a process of its own ended with {code}, at {size_text(largest)} of its own memory",
            fix="look at what it printed above",
        )


class _Sampler(threading.Thread):
    """The largest anonymous memory of a process until it ends."""

    def __init__(self, process: int) -> None:
        super().__init__(daemon=True)
        self.process = process
        self.largest = 0

    def run(self) -> None:
        """Sample until there is nothing to sample."""
        while (now := anonymous_bytes(self.process)) is not None:
            self.largest = max(self.largest, now)
            time.sleep(SAMPLE_EVERY_S)
