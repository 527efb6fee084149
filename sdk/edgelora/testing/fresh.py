"""Fresh processes: what listing a plugin imports, and what packed adapters compute elsewhere."""

from __future__ import annotations

import atexit
import json
import os
import select
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

_CHILD = Path(__file__).with_name("fresh_child.py")
_TIMEOUT_S = 300


@dataclass(frozen=True, slots=True)
class Packed:
    """An adapter to be applied: where it is, and where its logits go.

    Attributes:
        name: Of the base it was trained over.
        folder: The adapter directory.
        base: Folder of the unquantized base.
        logits: File that ``torch.save`` writes, by task.
    """

    name: str
    folder: str
    base: str
    logits: str


def list_afresh(plugin: str) -> dict[str, Any]:
    """Its ``state`` and ``cause`` in a process of its own, and the ``heavy`` packages that listing imported.

    Raises:
        AssertionError: That process ended without an answer.
    """
    process = FreshProcess(_importable())
    try:
        return process.ask({"plugin": plugin})
    finally:
        process.close()


def apply_afresh(adapters: Iterable[Packed]) -> dict[str, str]:
    """Why an adapter could not be applied, by name; those that could are not in it.

    They are applied in a process where nothing was ever trained: one for all that ask, for it takes longer
    to import torch than to apply an adapter.

    Raises:
        AssertionError: That process ended without an answer.
    """
    task = {"adapters": [asdict(each) for each in adapters]}
    process = _applying(_importable())
    try:
        failed: dict[str, str] = process.ask(task)
    except AssertionError:
        _applying.cache_clear()
        raise
    return failed


class FreshProcess:
    """A process that imports what this one can, and lives until it is closed or dies."""

    def __init__(self, path: str) -> None:
        self._home = tempfile.TemporaryDirectory(prefix="edgelora-fresh-")
        self._errors = Path(self._home.name) / "stderr"
        environment = {**os.environ, "PYTHONPATH": path, "EDGELORA_HOME": self._home.name}
        environment.pop("EDGELORA_ONLY", None)
        environment.pop("EDGELORA_BLOCK", None)
        with self._errors.open("w") as errors:
            # -P keeps the child's own folder out of its path.
            self._process = subprocess.Popen(
                [sys.executable, "-P", str(_CHILD)],
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )
        atexit.register(self.close)

    def ask(self, task: dict[str, Any]) -> Any:
        """What it answers to a task.

        Raises:
            AssertionError: It ended, or does not answer.
        """
        assert self._process.stdin and self._process.stdout
        try:
            print(json.dumps(task), file=self._process.stdin, flush=True)
            answered, _, _ = select.select([self._process.stdout], [], [], _TIMEOUT_S)
        except BrokenPipeError:
            answered = []
        answer = self._process.stdout.readline() if answered else ""
        if answer:
            return json.loads(answer)
        self._process.kill()
        code, said = self._process.wait(), self._errors.read_text(errors="replace").strip()[-500:]
        self.close()
        raise AssertionError(f"a fresh process that was given {json.dumps(task)} ended with {code}: {said}")

    def close(self) -> None:
        """End it, and forget its folder."""
        assert self._process.stdin and self._process.stdout
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            pipe.close()
        self._home.cleanup()
        atexit.unregister(self.close)


@cache
def _applying(path: str) -> FreshProcess:
    return FreshProcess(path)


def _importable() -> str:
    return os.pathsep.join(each for each in sys.path if each)
