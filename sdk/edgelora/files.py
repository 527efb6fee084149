"""Writing files so that a crash leaves the old content or the new, never a mix.

The order is always the same: write a temporary file in the same directory, fsync it, rename it, fsync
the directory. Locks are ``flock`` locks: the kernel drops them when their process dies.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from edgelora.errors import DiskFull, TargetExists

_FULL = (errno.ENOSPC, errno.EDQUOT)
_POLL_S = 0.02
_AT_FDCWD = -100
_RENAME_NOREPLACE = 1
_RENAME_EXCHANGE = 2


def atomic_write(path: Path, data: bytes, *, mode: int = 0o644) -> None:
    """Replace ``path`` by ``data``, durably, creating its parent directories.

    Raises:
        DiskFull: No space is left; ``path`` is as it was.
    """
    with disk_full_is_an_error(path):
        make_dirs(path.parent)
        temporary = path.parent / f".{path.name[:100]}.{secrets.token_hex(8)}.tmp"
        try:
            write_new(temporary, data, mode=mode)
            os.replace(temporary, path)
        except BaseException:
            with suppress(FileNotFoundError):
                temporary.unlink()
            raise
        fsync_dir(path.parent)


def write_new(path: Path, data: bytes, *, mode: int = 0o644) -> None:
    """Write and fsync a file that must not exist yet; no symlink is followed."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def fsync_dir(path: Path) -> None:
    """Make the names in a directory durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_dirs(path: Path) -> None:
    """Create a directory and its parents, each one's name made durable in the directory above it."""
    missing = []
    while not path.is_dir():
        missing.append(path)
        path = path.parent
    for folder in reversed(missing):
        with suppress(FileExistsError):
            folder.mkdir()
        fsync_dir(folder.parent)


def publish_directory(staging: Path, target: Path) -> None:
    """Let ``target`` be the directory ``staging``, durably: a reader finds the old one or the new one, whole.

    The old directory is then at ``staging``, and is the caller's to delete; where there was none, nothing
    is. The files in ``staging`` must be synced already. Only where the kernel cannot exchange two
    directories is there a moment without a ``target``; a crash in it leaves both beside it.

    Args:
        staging: A directory on the same file system.
        target: A directory, or a free name. Its parent must exist.
    """
    if os.path.lexists(target):
        exchange(staging, target)
        return
    os.rename(staging, target)
    fsync_dir(target.parent)
    if staging.parent != target.parent:
        fsync_dir(staging.parent)


def refuse_existing(target: Path) -> None:
    """Refuse a place before work is done for it; `publish_new_directory` refuses it in the end too.

    Raises:
        TargetExists: Something is there.
    """
    if os.path.lexists(target):
        raise TargetExists(f"{target} exists already", fix="remove it, or pass another place: --out")


def publish_new_directory(staging: Path, target: Path) -> None:
    """As `publish_directory`, where nothing may be at ``target`` yet (``RENAME_NOREPLACE``, Linux 3.15).

    Raises:
        TargetExists: Something is there.
    """
    failure = _renameat2(staging, target, _RENAME_NOREPLACE)
    if failure == errno.EEXIST or (failure and os.path.lexists(target)):
        raise TargetExists(
            f"{target} exists already", fix="move it away and repeat the command: it continues"
        )
    if failure:
        # The kernel or the file system has no such call.
        os.rename(staging, target)
    fsync_dir(target.parent)
    if staging.parent != target.parent:
        fsync_dir(staging.parent)


def publish_new_file(staging: Path, target: Path) -> None:
    """As `publish_new_directory`, for a file, which is made durable first.

    Raises:
        TargetExists: Something is at ``target``.
    """
    with staging.open("rb") as file:
        os.fsync(file.fileno())
    publish_new_directory(staging, target)


def exchange(first: Path, second: Path) -> None:
    """Swap two directories, durably, in one step (``renameat2`` with ``RENAME_EXCHANGE``, Linux 3.15).

    Where the kernel or the file system cannot, ``second`` is away for a moment.
    """
    if _renameat2(first, second, _RENAME_EXCHANGE) != 0:
        aside = first.with_name(f"{first.name}.{secrets.token_hex(8)}")
        os.rename(second, aside)
        os.rename(first, second)
        os.rename(aside, first)
    fsync_dir(first.parent)
    fsync_dir(second.parent)


def _renameat2(source: Path, target: Path, flag: int) -> int:
    """0, or the number of the error."""
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if rename is None:
        return errno.ENOSYS
    failed = rename(_AT_FDCWD, os.fsencode(source), _AT_FDCWD, os.fsencode(target), flag)
    return ctypes.get_errno() or errno.EIO if failed else 0


@contextmanager
def disk_full_is_an_error(path: Path) -> Iterator[None]:
    """Turn "no space left" and "quota exceeded" into ``DiskFull``, naming what was being written."""
    try:
        yield
    except OSError as error:
        if error.errno not in _FULL:
            raise
        raise DiskFull(
            f"no space left while writing {path}; nothing unfinished was made visible",
            fix=f"free space on the disk that holds {path.parent} and repeat the command: it continues",
        ) from error


def require_space(path: Path, needed_bytes: int, *, fix: str) -> None:
    """Refuse to begin what the disk of ``path``, which need not be there yet, has no room for.

    Raises:
        DiskFull: Fewer bytes are free.
    """
    folder = next(each for each in (path, *path.absolute().parents) if each.is_dir())
    free_bytes = shutil.disk_usage(folder).free
    if needed_bytes > free_bytes:
        raise DiskFull(f"{path} needs {needed_bytes} bytes, and {free_bytes} are free on its disk", fix=fix)


@contextmanager
def exclusive_lock(path: Path) -> Iterator[None]:
    """Hold the lock file ``path``, waiting for whoever has it. The file stays; only the lock goes."""
    descriptor = _open_lock(path)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


@contextmanager
def shared_lock(path: Path) -> Iterator[None]:
    """Hold ``path`` together with other sharers; waits while someone has it exclusively."""
    descriptor = _open_lock(path)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        yield
    finally:
        os.close(descriptor)


@contextmanager
def lock_if_free(path: Path, *, wait_s: float = 0.0) -> Iterator[bool]:
    """Yield True while holding the lock ``path``, or False when another process keeps it past ``wait_s``."""
    descriptor = _open_lock(path)
    try:
        yield _took(descriptor, time.monotonic() + wait_s)
    finally:
        os.close(descriptor)


def _open_lock(path: Path) -> int:
    with disk_full_is_an_error(path):
        make_dirs(path.parent)
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)


def _took(descriptor: int, deadline: float) -> bool:
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() >= deadline:
                return False
            time.sleep(_POLL_S)
