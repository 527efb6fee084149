"""Gathering the files of an adapter in a private folder; what an interrupted pull left is used again."""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from edgelora.errors import DigestMismatch, PathError
from edgelora.files import disk_full_is_an_error, fsync_dir, make_dirs
from edgelora.manifest import FileEntry
from edgelora.store import SourceChanged

PIECE_BYTES = 2**20


def _ignore(_: int) -> None:
    pass


class Staging:
    """``adapter/`` holds whole files whose digest was checked, ``parts/`` the beginnings of others.

    Args:
        folder: Made if it is not there. Its owner must be the current user.
        files: What the adapter consists of, besides its manifest. Everything else is cleared away.
    """

    def __init__(self, folder: Path, files: tuple[FileEntry, ...]) -> None:
        self._folder = folder
        self._files = {entry.path: entry for entry in files}
        self.adapter = folder / "adapter"
        self._parts = folder / "parts"
        self._make_private()
        self._sweep()

    def missing(self) -> list[FileEntry]:
        """What is still to be fetched, in the order of the manifest."""
        return [entry for entry in self._files.values() if not (self.adapter / entry.path).exists()]

    def begun_bytes(self) -> int:
        """How much of what is missing is there already."""
        return sum(
            min(part.stat().st_size, entry.size)
            for entry in self.missing()
            if (part := self._parts / f"{entry.sha256}.part").is_file()
        )

    def fetch(
        self, entry: FileEntry, open_at: Callable[[int], BinaryIO], on_bytes: Callable[[int], None] = _ignore
    ) -> int:
        """Fetch one file, going on behind what is there already; the bytes read.

        Args:
            entry: What the bytes must be.
            open_at: Opens the source at an offset.
            on_bytes: Told how many bytes arrived; what it raises stops the fetching, and what is there stays.

        Raises:
            DigestMismatch: The source holds other bytes.
            DiskFull: No space is left; the next pull goes on from here.
            StoreUnreachable: The source broke off; the next pull goes on from here.
        """
        part = self._parts / f"{entry.sha256}.part"
        target = self.adapter / entry.path
        with disk_full_is_an_error(target):
            with _open_part(part) as file:
                start = min(os.fstat(file.fileno()).st_size, entry.size)
                source = _Source(entry, open_at, on_bytes)
                actual, is_same = source.copy_to(file, start)
                if actual != entry.sha256 and (start or not is_same):
                    # The beginning may be damaged, or of another source: once more, from the first byte.
                    actual, _ = source.copy_to(file, 0)
                count = source.count
                if actual == entry.sha256:
                    os.fchmod(file.fileno(), 0o644)
                    os.fsync(file.fileno())
            if actual != entry.sha256:
                raise DigestMismatch(
                    f"{entry.path} arrived with the sha256 {actual}, and the manifest says {entry.sha256} "
                    f"of {entry.size} bytes",
                    fix="nothing was kept; pull from another store, or publish the adapter there again",
                )
            make_dirs(target.parent)
            os.replace(part, target)
            fsync_dir(target.parent)
        return count

    def discard(self) -> None:
        """Delete everything that was gathered."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def _make_private(self) -> None:
        make_dirs(self._folder.parent)
        if not os.path.lexists(self._folder):
            self._folder.mkdir(mode=0o700)
        about = self._folder.lstat()
        if not stat.S_ISDIR(about.st_mode) or about.st_uid != os.geteuid():
            raise PathError(
                f"{self._folder} is not a directory of the current user, so nothing is gathered there",
                fix="remove it, then pull again",
            )
        self._folder.chmod(0o700)
        for folder in (self.adapter, self._parts):
            if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
                folder.unlink()
            folder.mkdir(exist_ok=True)

    def _sweep(self) -> None:
        """Keep what a former pull of the same files finished, after hashing it again."""
        for folder, folders, files in os.walk(self.adapter, topdown=False):
            for name in files:
                path = Path(folder, name)
                entry = self._files.get(path.relative_to(self.adapter).as_posix())
                if entry is None or not _is_intact(path, entry):
                    path.unlink()
            for name in folders:
                path = Path(folder, name)
                if path.is_symlink():
                    path.unlink()
                elif not any(path.iterdir()):
                    path.rmdir()
        wanted = {f"{entry.sha256}.part" for entry in self.missing()}
        for path in self._parts.iterdir():
            if path.name not in wanted:
                _delete(path)


class _Source:
    """Where one file comes from, and how many bytes came."""

    def __init__(
        self, entry: FileEntry, open_at: Callable[[int], BinaryIO], on_bytes: Callable[[int], None]
    ) -> None:
        self._entry = entry
        self._open_at = open_at
        self._on_bytes = on_bytes
        self.count = 0

    def copy_to(self, file: BinaryIO, start: int) -> tuple[str, bool]:
        """Append the source's bytes from ``start`` on; (digest of the file, it stayed one source)."""
        digest = hashlib.sha256()
        file.seek(0)
        left = start
        while left and (piece := file.read(min(left, PIECE_BYTES))):
            digest.update(piece)
            left -= len(piece)
        file.seek(start)
        file.truncate()
        size = start
        try:
            with self._open_at(start) as source:
                while size <= self._entry.size and (piece := source.read(PIECE_BYTES)):
                    digest.update(piece)
                    file.write(piece)
                    size += len(piece)
                    self.count += len(piece)
                    self._on_bytes(len(piece))
        except SourceChanged:
            return digest.hexdigest(), False
        finally:
            # Also when the source breaks off: the next pull goes on behind what arrived.
            file.flush()
        return digest.hexdigest(), True


def _open_part(path: Path) -> BinaryIO:
    if path.is_symlink() or (path.exists() and path.stat().st_nlink != 1):
        # Writing through a link would change a file somewhere else.
        path.unlink()
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    return os.fdopen(os.open(path, flags, 0o600), "r+b")


def _is_intact(path: Path, entry: FileEntry) -> bool:
    about = path.lstat()
    if not stat.S_ISREG(about.st_mode) or about.st_nlink != 1 or about.st_size != entry.size:
        return False
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() == entry.sha256


def _delete(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()
