"""A reader written by someone else, driven as a process for each vector."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import cast

from edgelora.errors import OptionsError

_KEPT_BYTES = 64 * 2**10
UNREAD = 77
"""The exit code of a reader that does not read vectors of this kind, as test harnesses use it for a skip."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a reader said about one vector."""

    is_accepted: bool | None
    """None if it said nothing: it took too long, was killed, or does not read this kind."""
    id: str | None = None
    """Of the error, where the reader names one."""
    words: str = ""
    """For people: what it printed last, or why it said nothing."""
    is_unread: bool = False
    """It does not read vectors of this kind, and says so."""


Reader = Callable[[str, Path], Verdict]
"""From the kind of a vector and its place to a verdict."""


def foreign_reader(command: str, *, timeout_s: float) -> ForeignReader:
    """A reader that runs ``command`` with ``{path}`` and ``{kind}`` replaced, without a shell.

    Exit code 0 accepts, 77 says that the reader does not read this kind, every other one refuses. If the last
    line on stdout is a JSON object with a member ``id``, that is the id of the error.

    Raises:
        OptionsError: The command does not say where the path goes.
    """
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise OptionsError(
            f"the command {command!r} is malformed: {error}", fix="close its quotes"
        ) from error
    if not any("{path}" in word for word in words):
        raise OptionsError(
            f"the command {command!r} does not say where the path of a vector goes",
            fix="write {path} in it: --command 'my-reader {path}'",
        )
    return ForeignReader(words, timeout_s)


class ForeignReader:
    """Runs a command for each vector; nothing that it started outlives its answer.

    Args:
        words: The command, with ``{path}`` and ``{kind}``.
        timeout_s: How long it may take for one vector.
    """

    def __init__(self, words: Sequence[str], timeout_s: float) -> None:
        self._words = words
        self._timeout_s = timeout_s
        self._running: set[int] = set()

    def __call__(self, kind: str, path: Path) -> Verdict:
        """What the command says about the vector at ``path``."""
        # A session of its own, so that whatever the command started ends with it.
        process = subprocess.Popen(
            [word.replace("{path}", str(path)).replace("{kind}", kind) for word in self._words],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self._running.add(process.pid)
        tail = _Tail(cast("BufferedReader", process.stdout))
        try:
            process.wait(self._timeout_s)
        except subprocess.TimeoutExpired:
            return Verdict(None, words=f"no answer within {self._timeout_s:g} s")
        finally:
            _kill(process.pid)
            process.wait()
            self._running.discard(process.pid)
            last = tail.last_line()
        if process.returncode < 0:
            return Verdict(None, words=f"killed by {signal.Signals(-process.returncode).name}")
        if process.returncode == UNREAD:
            return Verdict(None, words=f"the reader does not read {kind}", is_unread=True)
        return Verdict(process.returncode == 0, _id_in(last), last[:200])

    def stop(self) -> None:
        """End what is running."""
        for pid in list(self._running):
            _kill(pid)


class _Tail(threading.Thread):
    """Reads a stream to its end and keeps the last of it, however much there is."""

    def __init__(self, stream: BufferedReader) -> None:
        super().__init__(daemon=True)
        self._stream = stream
        self._kept = b""
        self.start()

    def run(self) -> None:
        """Until the last writer is gone."""
        with self._stream:
            while piece := self._stream.read1(_KEPT_BYTES):
                self._kept = (self._kept + piece)[-_KEPT_BYTES:]

    def last_line(self) -> str:
        """After the writers were ended; one that left the session and still writes is not waited for."""
        self.join(timeout=1.0)
        return self._kept.decode("utf-8", "replace").strip().rpartition("\n")[2]


def _kill(session: int) -> None:
    with suppress(ProcessLookupError):
        os.killpg(session, signal.SIGKILL)


def _id_in(line: str) -> str | None:
    try:
        said = json.loads(line)
    except (ValueError, RecursionError):
        return None
    found = said.get("id") if isinstance(said, dict) else None
    return found if isinstance(found, str) else None
