"""The directory a run writes: its lock, plan, metrics, checkpoints and the adapter.

out/plan.json                   the resolved plan
out/metrics.jsonl               one line per optimizer step and evaluation
out/checkpoints/step-000120.pt  everything needed to go on bitwise
out/adapter/                    the packed adapter
"""

from __future__ import annotations

import json
import math
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch

from edgelora.errors import CheckpointError, CheckpointNotFound, DiskFull, RunExists, RunLocked
from edgelora.files import atomic_write, disk_full_is_an_error, fsync_dir, lock_if_free, make_dirs


class RunFolder:
    """One run's directory."""

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()
        self.plan = self.path / "plan.json"
        self.metrics = self.path / "metrics.jsonl"
        self.checkpoints = self.path / "checkpoints"
        self.adapter = self.path / "adapter"

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the directory for one process.

        Raises:
            RunLocked: Another process is training into it.
        """
        make_dirs(self.path)
        with lock_if_free(self.path / ".lock") as free:
            if not free:
                raise RunLocked(
                    f"another process is training into {self.path}",
                    fix="wait for it, or choose another 'out': --set out=runs/second",
                )
            for leftover in self.checkpoints.glob(".*.tmp"):
                leftover.unlink()
            yield

    def check_free(self) -> None:
        """Refuse to begin a run over another one.

        Raises:
            RunExists: The directory holds a run.
        """
        if held := self._held():
            raise RunExists(
                f"{self.path} already holds a run ({', '.join(path.name for path in held)})",
                fix="go on with it: --resume; replace it: --overwrite; or set another 'out'",
            )

    def start(self, document: dict[str, Any]) -> None:
        """Begin a new run; one that was there is gone from here on."""
        for path in self._held():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        atomic_write(self.plan, json.dumps(document, indent=2, sort_keys=True).encode() + b"\n")

    def _held(self) -> list[Path]:
        return [path for path in (self.adapter, self.checkpoints, self.metrics) if path.exists()]

    def log(self, record: dict[str, Any]) -> None:
        """Append one line to ``metrics.jsonl``."""
        with disk_full_is_an_error(self.metrics), self.metrics.open("a", encoding="utf-8") as file:
            file.write(json.dumps(_finite(record), allow_nan=False) + "\n")

    def forget_after(self, step: int) -> None:
        """Drop the metrics of steps that will be taken again: those from ``step`` on."""
        if not self.metrics.exists():
            return
        kept = []
        for line in self.metrics.read_text(encoding="utf-8").splitlines(keepends=True):
            with suppress(ValueError):  # a line cut short by a crash is dropped
                if json.loads(line).get("step", -1) < step:
                    kept.append(line)
        atomic_write(self.metrics, "".join(kept).encode())

    def save_checkpoint(self, step: int, state: dict[str, Any], *, keep: int) -> Path:
        """Write a checkpoint so that it is whole or absent, then drop all but the newest ``keep``.

        Raises:
            DiskFull: No space is left; earlier checkpoints are untouched.
        """
        path = self.checkpoints / f"step-{step:06d}.pt"
        try:
            with disk_full_is_an_error(path):
                self._replace(path, state)
        except DiskFull as error:
            fix = f"free space on the disk that holds {self.path}, then go on with --resume"
            raise DiskFull(error.problem, fix=fix) from error
        for old in self._all_checkpoints()[:-keep]:
            old.unlink()
        return path

    def _replace(self, path: Path, state: dict[str, Any]) -> None:
        make_dirs(self.checkpoints)
        temporary = self.checkpoints / f".{path.name}.{secrets.token_hex(4)}.tmp"
        try:
            _write(temporary, state)
            os.replace(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        fsync_dir(self.checkpoints)

    def latest_checkpoint(self) -> dict[str, Any]:
        """The newest checkpoint.

        Raises:
            CheckpointNotFound: There is none.
            CheckpointError: It cannot be read.
        """
        found = self._all_checkpoints()
        if not found:
            raise CheckpointNotFound(
                f"{self.path} holds no checkpoint to resume from", fix="start the run without --resume"
            )
        try:
            state: dict[str, Any] = torch.load(found[-1], map_location="cpu", weights_only=True)
        except Exception as error:  # torch raises many kinds for a damaged file
            raise CheckpointError(
                f"checkpoint {found[-1]} is damaged: {error}",
                fix=f"delete it to resume from {found[-2].name}" if len(found) > 1 else "start the run again",
            ) from error
        return state

    def _all_checkpoints(self) -> list[Path]:
        return sorted(self.checkpoints.glob("step-*.pt"), key=lambda path: int(path.stem.partition("-")[2]))


def _finite(value: Any) -> Any:
    """The same with null for numbers JSON has no form for."""
    if isinstance(value, dict):
        return {name: _finite(item) for name, item in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _write(path: Path, state: dict[str, Any]) -> None:
    with path.open("xb") as file:
        try:
            torch.save(state, file)
            file.flush()
        except RuntimeError as error:
            # torch's writer hides the operating system's error; writing again shows it.
            file.write(bytes(1 << 16))
            file.flush()
            raise error
        os.fsync(file.fileno())
