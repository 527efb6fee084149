"""What every store can do, and the records that pass between a store and push and pull."""

from __future__ import annotations

from dataclasses import dataclass
from typing import BinaryIO, Protocol

from edgelora.store.reference import Reference


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file of one version: what it is called, how long it is, and the digest of its bytes."""

    path: str
    size: int
    sha256: str
    """64 hex digits."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One version, pinned: everything read through it belongs together, whatever is published meanwhile."""

    reference: Reference
    """With the version filled in."""
    commit: str
    """40 hex digits."""
    manifest: StoredFile
    files: tuple[StoredFile, ...]
    """All files, the manifest among them, sorted by path."""
    reused: bool = False
    """Set by ``publish``: the same content was published under this version before."""
    yanked: str | None = None
    """Why its publisher withdrew the version, in one printable line; None for one that stands."""


@dataclass(frozen=True, slots=True)
class Publication:
    """What ``publish`` makes visible, all of it or nothing."""

    reference: Reference
    """With a version."""
    files: tuple[StoredFile, ...]
    """All files, the manifest among them; each was put before."""
    parent: str | None
    """``head()`` as it was when the manifest was made; None for an adapter's first version."""
    release_sequence: int
    """Of the manifest; higher than ``release_sequence()``, except for a version that comes back."""
    message: str = ""
    public: bool = False
    """If a remote store has to make a repository for it, everybody may read that one."""


class SourceChanged(Exception):
    """A file became another one while it was read, so what was read of it is worth nothing."""


class Store(Protocol):
    """Where adapters live. Methods raise ``AdapterNotFound`` for what is not there."""

    @property
    def address(self) -> str:
        """How messages and references name this store."""
        ...

    def list_adapters(self) -> list[str]:
        """``ns/name`` of every adapter with at least one version, sorted."""
        ...

    def versions(self, namespace: str, name: str) -> list[str]:
        """Published versions, the lowest first; empty for an unknown adapter."""
        ...

    def resolve(self, reference: Reference) -> Snapshot:
        """Pin a version; without one, the latest release that was not yanked.

        Raises:
            Yanked: No version is named, and all there are were yanked. One that is named is answered, yanked
                or not: the snapshot says so.
        """
        ...

    def read_manifest(self, reference: Reference) -> bytes:
        """The exact bytes of ``edgelora.json``, checked against their digest."""
        ...

    def open_file(self, snapshot: Snapshot, path: str, *, offset: int = 0) -> BinaryIO:
        """The bytes of one file from ``offset`` on, unchecked: whoever writes them down hashes them."""
        ...

    def head(self, namespace: str, name: str) -> str | None:
        """The commit published last, or None."""
        ...

    def release_sequence(self, namespace: str, name: str) -> int:
        """The highest release sequence an adapter was published with, removed versions included; or 0."""
        ...

    def removed(self, namespace: str, name: str) -> list[Snapshot]:
        """Versions that were removed, each with its manifest only. Nothing else is published under them."""
        ...

    def put_file(self, source: BinaryIO, file: StoredFile) -> bool:
        """Store bytes, invisible until published; True when they were not there before."""
        ...

    def publish(self, publication: Publication) -> Snapshot:
        """Make a version visible.

        Raises:
            VersionExists: The version holds other content, or did when it was removed.
            PublishRaced: ``parent`` is no longer the head.
        """
        ...

    def remove(self, reference: Reference) -> Snapshot:
        """Take a version out of sight, and remember what it was. Its bytes stay until they are collected."""
        ...

    def yanked(self, namespace: str, name: str) -> dict[str, str]:
        """Versions their publisher withdrew, each with the reason; empty for an unknown adapter."""
        ...

    def yank(self, reference: Reference, reason: str) -> Snapshot:
        """Withdraw a version, in one line of reason. It stays, and is answered only to who names it."""
        ...

    def unyank(self, reference: Reference) -> Snapshot:
        """Let a withdrawn version stand again; changes nothing for one that stands."""
        ...
