"""Whether a base model's files stay the same from when they are identified until they are last read."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from edgelora.errors import ModelError
from edgelora.manifest.base_identity import READ_SUFFIXES, weights_files

FileState = tuple[int, int, int, int, int]
"""Device, inode, size, and when content and inode were last changed."""


def state_of_base(folder: Path) -> Mapping[str, FileState]:
    """The state of every file a model or its tokenizer is read from, by name.

    Raises:
        ModelError: The folder holds no weights that can be read.
    """
    try:
        names = {name for name in os.listdir(folder) if name.endswith(READ_SUFFIXES)}
        names |= set(weights_files(folder))
        if missing := sorted(name for name in names if not (folder / name).exists()):
            raise ModelError(
                f"{folder / missing[0]} is not there, and the base cannot be read without it",
                fix="fetch the base again, or prepare it again: edgelora bases prepare MODEL "
                f"--quantizer NAME --out {folder} --overwrite",
            )
        return {name: _state(folder / name) for name in sorted(names)}
    except OSError as error:
        raise ModelError(
            f"{folder} cannot be read: {error.strerror}", fix="repeat when it is there"
        ) from error


def check_base_unchanged(folder: Path, before: Mapping[str, FileState]) -> None:
    """Refuse a base that is not the one that was identified.

    Args:
        folder: Of the base.
        before: What `state_of_base` returned before it was identified.

    Raises:
        ModelError: A file was written, replaced, added or taken away since.
    """
    after = state_of_base(folder)
    changed = sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))
    if changed:
        raise ModelError(
            f"{folder / changed[0]} changed since the base was checked",
            fix="see who writes there; repeat when nobody does",
        )


def _state(path: Path) -> FileState:
    status = os.stat(path)
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
