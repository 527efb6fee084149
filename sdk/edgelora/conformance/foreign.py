"""A reader written by someone else, driven as a process for each vector."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from edgelora.errors import OptionsError


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a reader said about one vector."""

    is_accepted: bool | None
    """None if it said nothing: it took too long, or was killed."""
    id: str | None = None
    """Of the error, where the reader names one."""
    words: str = ""
    """For people: what it printed last, or why it said nothing."""


Reader = Callable[[str, Path], Verdict]
"""From the kind of a vector and its place to a verdict."""


def foreign_reader(command: str, *, timeout_s: float) -> Reader:
    """A reader that runs ``command`` with ``{path}`` and ``{kind}`` replaced, without a shell.

    Exit code 0 accepts, every other one refuses. If the last line on stdout is a JSON object with a member
    ``id``, that is the id of the error.

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

    def read(kind: str, path: Path) -> Verdict:
        filled = [word.replace("{path}", str(path)).replace("{kind}", kind) for word in words]
        return _run(filled, timeout_s)

    return read


def _run(arguments: list[str], timeout_s: float) -> Verdict:
    # A session of its own, so that whatever the command started ends with it.
    process = subprocess.Popen(
        arguments,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    with process:
        try:
            output, _ = process.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            return Verdict(None, words=f"no answer within {timeout_s:g} s")
    last = output.decode("utf-8", "replace").strip().rpartition("\n")[2]
    if process.returncode < 0:
        return Verdict(None, words=f"killed by {signal.Signals(-process.returncode).name}")
    return Verdict(process.returncode == 0, _id_in(last), last[:200])


def _id_in(line: str) -> str | None:
    try:
        said = json.loads(line)
    except (ValueError, RecursionError):
        return None
    found = said.get("id") if isinstance(said, dict) else None
    return found if isinstance(found, str) else None
