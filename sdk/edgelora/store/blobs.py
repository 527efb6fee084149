"""Writing into a directory mirror: files by digest, and small records, each visible whole or not at all.

Every file is first written in ``tmp/``, where it is locked by its writer. A temporary file nobody has
locked belongs to a process that died, and may be deleted by anyone.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from edgelora.confined import open_regular
from edgelora.errors import DigestMismatch, FileSetMismatch, MissingFile, PathError, StoreError
from edgelora.files import disk_full_is_an_error, fsync_dir, lock_if_free, make_dirs, shared_lock
from edgelora.store.protocol import StoredFile

PIECE_BYTES = 2**20


def blob_path(sha256: str) -> str:
    """Where a blob lies below the root."""
    return f"blobs/sha256/{sha256[:2]}/{sha256}"


class BlobPool:
    """The write side of one mirror directory.

    Args:
        root: The mirror.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._temporary = root / "tmp"
        self._lock = root / "locks" / "tmp.lock"

    def put(self, source: BinaryIO, file: StoredFile) -> bool:
        """Copy ``source`` in under its digest, hashing on the way; False when an intact copy was there.

        A damaged copy is replaced, so publishing again repairs a mirror.

        Raises:
            DigestMismatch: ``source`` does not hold what ``file`` says.
            DiskFull: No space is left; no part of the blob is visible.
        """
        target = self._root / blob_path(file.sha256)
        if self.is_intact(file):
            # Another writer may have renamed it a moment ago and not yet made the name durable.
            fsync_dir(target.parent)
            return False
        with disk_full_is_an_error(target), self._new_file() as (descriptor, temporary):
            _copy_hashed(source, descriptor, file)
            self._move(descriptor, temporary, target)
        return True

    def place(self, relative: str, data: bytes) -> None:
        """Create or replace a small record."""
        target = self._root / relative
        with disk_full_is_an_error(target), self._new_file() as (descriptor, temporary):
            _write_all(descriptor, data)
            self._move(descriptor, temporary, target, mode=0o644)

    def is_intact(self, file: StoredFile) -> bool:
        """Whether the blob is there and holds the bytes of its name."""
        try:
            with open_regular(self._root, blob_path(file.sha256)) as blob:
                same_size = os.fstat(blob.fileno()).st_size == file.size
                return same_size and hashlib.file_digest(blob, "sha256").hexdigest() == file.sha256
        except (MissingFile, PathError):
            return False

    def require(self, file: StoredFile) -> None:
        """Check, cheaply, that a blob about to be published is there.

        Raises:
            FileSetMismatch: It is not, or has another length.
        """
        try:
            with open_regular(self._root, blob_path(file.sha256)) as blob:
                size = os.fstat(blob.fileno()).st_size
        except MissingFile:
            size = None
        if size != file.size:
            raise FileSetMismatch(
                f"{file.path} cannot be published: blob {file.sha256} is not in {self._root}",
                fix="put every file before publishing; run the push again",
            )

    def clean(self) -> int:
        """Delete temporary files whose writers died; how many there were."""
        with lock_if_free(self._lock) as held:
            # Without the lock, a writer may be between creating its file and locking it.
            if not held or not self._temporary.is_dir():
                return 0
            return sum(_delete_if_dead(path) for path in self._temporary.iterdir())

    @contextmanager
    def _new_file(self) -> Iterator[tuple[int, Path]]:
        temporary = self._temporary / f"{os.getpid()}-{secrets.token_hex(12)}"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with shared_lock(self._lock):
            descriptor = os.open(temporary, flags, 0o600)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        try:
            yield descriptor, temporary
        finally:
            with suppress(FileNotFoundError):
                temporary.unlink()
            os.close(descriptor)

    def _move(self, descriptor: int, temporary: Path, target: Path, *, mode: int = 0o444) -> None:
        os.fchmod(descriptor, mode)
        os.fsync(descriptor)
        make_dirs(target.parent)
        if target.parent.resolve() != self._root.resolve() / target.parent.relative_to(self._root):
            raise StoreError(
                f"{target.parent} is a symlink that leads out of the mirror",
                fix="replace it by a directory, or make a new mirror and publish there",
            )
        os.replace(temporary, target)
        fsync_dir(target.parent)


def _copy_hashed(source: BinaryIO, descriptor: int, file: StoredFile) -> None:
    digest = hashlib.sha256()
    size = 0
    while size <= file.size and (piece := source.read(PIECE_BYTES)):
        digest.update(piece)
        size += len(piece)
        _write_all(descriptor, piece)
    if size != file.size or digest.hexdigest() != file.sha256:
        raise DigestMismatch(
            f"{file.path} is not the file its manifest describes: sha256 {digest.hexdigest()} "
            f"of {size} bytes instead of {file.sha256} of {file.size} bytes",
            fix="leave the folder alone while it is pushed, or pack the adapter again",
        )


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def _delete_if_dead(path: Path) -> bool:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        # Renamed into place since it was listed, or nothing this class makes.
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        path.unlink()
        return True
    except (BlockingIOError, FileNotFoundError):
        return False
    finally:
        os.close(descriptor)
