"""The records of one adapter in a directory mirror: its commits, tags and tombstones, and its ``main``."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from edgelora.confined import read_regular
from edgelora.errors import DigestMismatch, MissingFile, PathError
from edgelora.files import fsync_dir
from edgelora.store.blobs import BlobPool
from edgelora.store.records import (
    MAX_COMMIT_BYTES,
    MAX_POINTER_BYTES,
    MAX_REMOVAL_BYTES,
    Commit,
    Pointer,
    Removal,
    damaged,
    damaged_removal,
)
from edgelora.store.versions import is_version, sort_versions

MODELS = "repos/models"

_FOLDER = re.compile(r"([a-z0-9]+(?:[._-][a-z0-9]+)*)--([a-z0-9]+(?:[._-][a-z0-9]+)*)")


class Repository:
    """One adapter's records. Writers hold ``lock_path`` around everything they do here.

    A version exists exactly when its tag does. ``refs/heads/main`` follows the tags: it is written after
    them, and put right by the next writer where a crash came between.
    """

    def __init__(self, root: Path, namespace: str, name: str) -> None:
        self._root = root
        self._adapter = f"{namespace}/{name}"
        self._path = f"{MODELS}/{namespace}--{name}"
        self.lock_path = root / "locks" / f"{namespace}--{name}.lock"

    def versions(self) -> list[str]:
        """Published versions, the lowest first."""
        return sort_versions(filter(is_version, names(self._root / self._path / "refs" / "tags")))

    def commit(self, version: str) -> tuple[Commit, Pointer]:
        """What was published under a version, with every digest on the way checked.

        Raises:
            DigestMismatch: A record is damaged, missing, or of another adapter or version.
        """
        tag = f"{self._path}/refs/tags/{version}"
        pointer = Pointer.parse(self._read(tag, MAX_POINTER_BYTES), str(self._root / tag))
        return self.record(pointer, version), pointer

    def record(self, pointer: Pointer, version: str) -> Commit:
        """The commit a ref of ``version`` names.

        Raises:
            DigestMismatch: It is damaged, missing, or of another adapter or version.
        """
        record = f"{self._path}/commits/{pointer.oid}.json"
        where = str(self._root / record)
        data = self._read(record, MAX_COMMIT_BYTES)
        if Pointer.to(data) != pointer:
            raise damaged(where, f"does not hash to what the ref of {version} names")
        commit = Commit.parse(data, where)
        if (commit.adapter, commit.version) != (self._adapter, version):
            raise damaged(where, f"is {commit.adapter}@{commit.version}, not {self._adapter}@{version}")
        return commit

    def commits(self) -> Iterator[tuple[Commit, Pointer]]:
        """Every published version's commit; damaged ones are left out."""
        for version in self.versions():
            with suppress(DigestMismatch):
                yield self.commit(version)

    def newest(self) -> tuple[Commit, Pointer] | None:
        """The commit published last, or None."""
        return max(self.commits(), key=lambda entry: entry[0].sequence, default=None)

    def removal(self, version: str) -> Removal | None:
        """The tombstone of a version; one beside a tag is of a removal that died, or was undone.

        Raises:
            DigestMismatch: It is damaged, or of another adapter or version.
        """
        relative = f"{self._path}/refs/removed/{version}"
        where = str(self._root / relative)
        try:
            removal = Removal.parse(read_regular(self._root, relative, limit=MAX_REMOVAL_BYTES), where)
        except MissingFile:
            return None
        if (removal.adapter, removal.version) != (self._adapter, version):
            told = f"{removal.adapter}@{removal.version}"
            raise damaged_removal(where, f"is of {told}, not {self._adapter}@{version}")
        return removal

    def removed_versions(self) -> list[str]:
        """Versions that have a tombstone, the lowest first."""
        return sort_versions(filter(is_version, names(self._root / self._path / "refs" / "removed")))

    def removals(self) -> Iterator[Removal]:
        """Every tombstone; damaged ones are left out."""
        for version in self.removed_versions():
            with suppress(DigestMismatch, PathError):
                removal = self.removal(version)
                if removal:
                    yield removal

    def sequence(self) -> int:
        """The highest sequence of a commit that was ever published, or 0."""
        numbers = [commit.sequence for commit, _ in self.commits()]
        return max(0, self._count(), *numbers, *(removal.sequence for removal in self.removals()))

    def release_sequence(self) -> int:
        """The highest release sequence that was ever published, or 0."""
        numbers = [commit.release_sequence for commit, _ in self.commits()]
        return max(0, self._count(), *numbers, *(removal.release_sequence for removal in self.removals()))

    def write(self, commit: Commit, pool: BlobPool) -> None:
        """Add a version. Writing its tag is the moment it exists."""
        if not (self._root / self._path / "repo.json").exists():
            about = {"format": 1, "id": self._adapter, "type": "model", "createdAt": commit.created_at}
            pool.place(f"{self._path}/repo.json", (json.dumps(about, indent=1) + "\n").encode())
        data = commit.encode()
        pointer = Pointer.to(data)
        pool.place(f"{self._path}/commits/{pointer.oid}.json", data)
        self.tag(commit.version, pointer, pool)

    def tag(self, version: str, pointer: Pointer, pool: BlobPool) -> None:
        """Let a version exist."""
        pool.place(f"{self._path}/refs/tags/{version}", pointer.encode())

    def delete(self, version: str, pool: BlobPool) -> None:
        """Take a version out of sight, its tombstone first; its commit and blobs stay."""
        removal = Removal.of(*self.commit(version))
        pool.place(f"{self._path}/refs/removed/{version}", removal.encode())
        tags = self._root / self._path / "refs" / "tags"
        (tags / version).unlink()
        fsync_dir(tags)

    def point_main(self, pool: BlobPool) -> None:
        """Let ``main`` be the newest commit, whatever it was."""
        newest = self.newest()
        relative = f"{self._path}/refs/heads/main"
        main = self._root / relative
        if newest is None:
            with suppress(FileNotFoundError):
                main.unlink()
                fsync_dir(main.parent)
        elif not main.is_file() or main.read_bytes() != newest[1].encode():
            pool.place(relative, newest[1].encode())

    def _count(self) -> int:
        """How many versions there ever were: both sequences are at least that, whatever record is damaged."""
        return len({*self.versions(), *self.removed_versions()})

    def _read(self, relative: str, limit: int) -> bytes:
        try:
            return read_regular(self._root, relative, limit=limit)
        except MissingFile as error:
            raise damaged(str(self._root / relative), "is missing") from error


def repository_names(root: Path) -> list[tuple[str, str]]:
    """(namespace, name) of every repository directory, sorted; some may hold no version."""
    matches = (_FOLDER.fullmatch(name) for name in names(root / MODELS))
    return sorted((match[1], match[2]) for match in matches if match)


def names(folder: Path) -> list[str]:
    """What lies in a directory, symlinks left out; nothing if there is no directory."""
    try:
        with os.scandir(folder) as entries:
            return [entry.name for entry in entries if not entry.is_symlink()]
    except (FileNotFoundError, NotADirectoryError):
        return []
