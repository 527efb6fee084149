"""Bytes that were fetched from remote stores, by their digest, shared by all processes of this user.

An entry is a file of its own, which nobody may write: whoever edits a pulled adapter by hand changes neither
the cache nor another adapter. Nothing in the cache is believed: every entry is hashed again before it is
used, and dropped if it is damaged. Losing an entry only costs a download.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import time
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass
from io import FileIO
from pathlib import Path

from edgelora.confined import open_regular
from edgelora.errors import MissingFile, PathError
from edgelora.files import disk_full_is_an_error, exclusive_lock, fsync_dir, make_dirs, shared_lock
from edgelora.locations import cache_dir
from edgelora.store.protocol import StoredFile

_NAME = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class CachedBlob:
    """One entry."""

    sha256: str
    size: int
    used_at: float
    """Seconds since 1970."""


class BlobCache:
    """The cache of this user, below ``cache_dir()``."""

    def __init__(self) -> None:
        self.root = cache_dir() / "blobs"
        self._lock = cache_dir() / "locks" / "blobs.lock"

    def take(self, file: StoredFile, target: Path) -> bool:
        """Let ``target`` be a copy of this file, if it is here and whole; False if it has to be fetched.

        Args:
            file: Which bytes.
            target: A free name; its folder is made.

        Raises:
            DiskFull: There is no space for the copy.
        """
        if not self._path(file.sha256).exists():
            return False
        with shared_lock(self._lock):
            blob = self.open(file)
            if blob is None:
                return False
            with blob, disk_full_is_an_error(target):
                make_dirs(target.parent)
                _copy(blob, target, mode=0o644)
                fsync_dir(target.parent)
        return True

    def keep(self, path: Path, file: StoredFile) -> None:
        """Remember bytes that were checked, at ``path``. A cache that cannot be written is no failure."""
        blob = self._path(file.sha256)
        with suppress(OSError), shared_lock(self._lock):
            make_dirs(blob.parent)
            if not blob.exists():
                with open(path, "rb", buffering=0) as source:
                    _copy(source, blob, mode=0o444)
            _touch(blob)

    def open(self, file: StoredFile) -> FileIO | None:
        """A file at its first byte, after hashing it again; None if it is not here or was damaged."""
        try:
            blob = open_regular(self.root, self._path(file.sha256).relative_to(self.root).as_posix())
        except (MissingFile, PathError, OSError):
            return None
        same_size = os.fstat(blob.fileno()).st_size == file.size
        if same_size and hashlib.file_digest(blob, "sha256").hexdigest() == file.sha256:
            blob.seek(0)
            with suppress(OSError):
                _touch(self._path(file.sha256))
            return blob
        blob.close()
        with suppress(OSError):
            self._path(file.sha256).unlink()
        return None

    def entries(self) -> list[CachedBlob]:
        """All entries, the one used last first."""
        found = []
        for path in self.root.glob("??/*"):
            if _NAME.fullmatch(path.name):
                with suppress(FileNotFoundError):
                    about = path.lstat()
                    found.append(CachedBlob(path.name, about.st_size, about.st_atime))
        return sorted(found, key=lambda entry: (-entry.used_at, entry.sha256))

    def remove(self, digests: Collection[str]) -> None:
        """Delete entries, and what was left of copies that broke off. A pull keeps what it took."""
        with exclusive_lock(self._lock):
            for sha256 in digests:
                self._path(sha256).unlink(missing_ok=True)
            # Whoever copies holds the lock: these are of processes that died.
            for unfinished in self.root.glob("??/.*.tmp"):
                unfinished.unlink(missing_ok=True)

    def verify(self) -> tuple[int, list[str]]:
        """Hash everything again and drop what is damaged; (intact entries, digests dropped)."""
        intact, dropped = 0, []
        for entry in self.entries():
            blob = self.open(StoredFile("", entry.size, entry.sha256))
            if blob is None:
                dropped.append(entry.sha256)
            else:
                blob.close()
                intact += 1
        return intact, dropped

    def to_prune(self, *, older_than_s: float | None, max_bytes: int | None) -> list[CachedBlob]:
        """Entries not used for so long, then those used longest ago until the rest fits."""
        entries = self.entries()
        oldest = time.time() - older_than_s if older_than_s is not None else 0.0
        pruned = [entry for entry in entries if entry.used_at < oldest]
        kept = [entry for entry in entries if entry.used_at >= oldest]
        total = sum(entry.size for entry in kept)
        while max_bytes is not None and total > max_bytes:
            pruned.append(kept.pop())
            total -= pruned[-1].size
        return pruned

    def _path(self, sha256: str) -> Path:
        return self.root / sha256[:2] / sha256


def _copy(source: FileIO, target: Path, *, mode: int) -> None:
    temporary = target.parent / f".{secrets.token_hex(8)}.tmp"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        with open(os.open(temporary, flags, 0o600), "wb", buffering=0) as copy:
            _copy_bytes(source.fileno(), copy.fileno())
            os.fchmod(copy.fileno(), mode)
            os.fsync(copy.fileno())
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


def _copy_bytes(source: int, copy: int) -> None:
    """Copy to the end; where the file system can, without writing the bytes a second time."""
    # AttributeError: only Linux has it. OSError: not between these two; a full disk shows below as well.
    with suppress(AttributeError, OSError):
        while os.copy_file_range(source, copy, 2**30):
            pass
    while piece := os.read(source, 2**20):
        while piece:
            piece = piece[os.write(copy, piece) :]


def _touch(path: Path) -> None:
    """Note that an entry was used."""
    os.utime(path, ns=(time.time_ns(), path.stat().st_mtime_ns))
