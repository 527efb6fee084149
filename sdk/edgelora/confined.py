"""Opening files below a directory that may be hostile: no symlink is followed, only plain files are read."""

from __future__ import annotations

import errno
import os
import stat
from io import FileIO
from pathlib import Path

from edgelora.errors import MissingFile, PathError

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# Without O_NONBLOCK, opening a FIFO would wait for its writer for ever.
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


def open_regular(root: Path, path: str) -> FileIO:
    """Open ``root/path`` for reading. The root itself may be a symlink; nothing below it may.

    Args:
        root: A directory the caller trusts by name.
        path: Relative, with ``/`` between the parts.

    Raises:
        MissingFile: There is no such file.
        PathError: A part of the path is a symlink or leads outside, or the file is a device or directory.
    """
    try:
        descriptor = _open_below(root, _parts(path))
    except OSError as error:
        if error.errno == errno.ENOENT:
            raise MissingFile(
                f"{root / path} does not exist", fix="check the directory, or fetch its content again"
            ) from error
        if error.errno in (errno.ELOOP, errno.ENOTDIR, errno.ENXIO):
            raise _not_regular(root, path) from error
        raise
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise _not_regular(root, path)
    return FileIO(descriptor, "rb")


def read_regular(root: Path, path: str, *, limit: int) -> bytes:
    """All bytes of ``root/path``, opened like ``open_regular``.

    Raises:
        PathError: The file is longer than ``limit`` bytes.
    """
    with open_regular(root, path) as file:
        data = bytearray()
        while len(data) <= limit and (piece := file.read(limit + 1 - len(data))):
            data += piece
    if len(data) > limit:
        raise PathError(
            f"{root / path} is longer than the {limit} bytes allowed there", fix="fetch its content again"
        )
    return bytes(data)


def _parts(path: str) -> list[str]:
    parts = path.split("/")
    if any(part in ("", ".", "..") or "\0" in part for part in parts):
        raise PathError(f"{path!r} leads outside of its directory", fix="use a plain relative path")
    return parts


def _open_below(root: Path, parts: list[str]) -> int:
    """Walk down by descriptors, so that no directory can be swapped for a link on the way."""
    descriptor = os.open(root, _DIRECTORY & ~os.O_NOFOLLOW)
    for depth, part in enumerate(parts, start=1):
        above = descriptor
        try:
            descriptor = os.open(part, _FILE if depth == len(parts) else _DIRECTORY, dir_fd=above)
        finally:
            os.close(above)
    return descriptor


def _not_regular(root: Path, path: str) -> PathError:
    return PathError(
        f"{root / path} is, or lies behind, a symlink or something else that is not a plain file",
        fix="replace it by a plain file: links are refused because they can be changed after the check",
    )
