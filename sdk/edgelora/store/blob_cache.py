"""Bytes that were fetched from remote stores, by their digest, shared by all processes of this user.

A pulled adapter and the cache share one file on the disk wherever the file system allows it. Nothing in the
cache is believed: every entry is hashed again before it is used, and dropped if it is damaged. Losing an
entry only costs a download.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import shutil
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
    is_shared: bool
    """An adapter on this disk is the same file, so that removing the entry frees nothing."""


class BlobCache:
    """The cache of this user, below ``cache_dir()``."""

    def __init__(self) -> None:
        self.root = cache_dir() / "blobs"
        self._lock = cache_dir() / "locks" / "blobs.lock"

    def take(self, file: StoredFile, target: Path) -> bool:
        """Let ``target`` be this file, if it is here and whole; False if it has to be fetched.

        Args:
            file: Which bytes.
            target: A free name; its folder is made.

        Raises:
            DiskFull: A copy was needed, and there is no space for it.
        """
        if not self._path(file.sha256).exists():
            return False
        with shared_lock(self._lock):
            blob = self.open(file)
            if blob is None:
                return False
            with blob, disk_full_is_an_error(target):
                make_dirs(target.parent)
                _share(self._path(file.sha256), target)
                fsync_dir(target.parent)
        return True

    def keep(self, path: Path, file: StoredFile) -> None:
        """Remember bytes that were checked, at ``path``. A cache that cannot be written is no failure."""
        blob = self._path(file.sha256)
        with suppress(OSError), shared_lock(self._lock):
            make_dirs(blob.parent)
            if not blob.exists():
                _share(path, blob)
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
                    found.append(CachedBlob(path.name, about.st_size, about.st_atime, about.st_nlink > 1))
        return sorted(found, key=lambda entry: (-entry.used_at, entry.sha256))

    def remove(self, digests: Collection[str]) -> None:
        """Delete entries. A pull that is taking one keeps what it took."""
        with exclusive_lock(self._lock):
            for sha256 in digests:
                self._path(sha256).unlink(missing_ok=True)

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


def _share(source: Path, target: Path) -> None:
    """Give a file a second name; a copy where there can be none, such as on another disk."""
    with suppress(FileExistsError):
        try:
            os.link(source, target, follow_symlinks=False)
        except FileExistsError:
            raise
        except OSError:
            _copy(source, target)


def _copy(source: Path, target: Path) -> None:
    temporary = target.parent / f".{secrets.token_hex(8)}.tmp"
    try:
        with open(source, "rb") as given, open(temporary, "xb") as copy:
            shutil.copyfileobj(given, copy, 2**20)
            copy.flush()
            os.fsync(copy.fileno())
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


def _touch(path: Path) -> None:
    """Note that an entry was used. When it was changed is also said of the adapter's file, and stays."""
    os.utime(path, ns=(time.time_ns(), path.stat().st_mtime_ns))
