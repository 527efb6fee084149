"""A store in a directory: content-addressed, crash-safe, for many writers on one local file system.

The layout is spec/v1/mirror.md. ``flock`` orders the writers, so the directory must not be on a network
file system that does not honour it; reading needs no lock and works from read-only media.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from io import FileIO
from pathlib import Path
from typing import BinaryIO

from edgelora.confined import open_regular, read_regular
from edgelora.errors import FileSetMismatch, MissingFile, StoreError, StoreNotFound
from edgelora.files import disk_full_is_an_error, exclusive_lock, make_dirs
from edgelora.manifest import MAX_MANIFEST_BYTES
from edgelora.store.blobs import BlobPool, blob_path
from edgelora.store.fsck import Report, check_mirror
from edgelora.store.protocol import Publication, Snapshot, StoredFile
from edgelora.store.publishing import Publishing
from edgelora.store.records import Commit, Pointer, damaged
from edgelora.store.reference import Reference
from edgelora.store.refusals import no_adapter, no_version, unpinned
from edgelora.store.repository import Repository, names, repository_names
from edgelora.store.versions import parse_version
from edgelora.store.yanks import Yank, Yanks, check_reason, latest_offered

LAYOUT = b"edgelora mirror 1\n"

# What a crash while the directory was being made can leave.
_SCAFFOLD = {"locks", "tmp"}


class DirectoryStore:
    """A mirror directory.

    Args:
        root: The directory. The first write makes it, if its parent exists.
        make_parents: Let the first write make the parents too.
    """

    def __init__(self, root: Path, *, make_parents: bool = False) -> None:
        self.root = root.absolute()
        self._make_parents = make_parents
        self._pool = BlobPool(self.root)
        self._is_prepared = False

    @property
    def address(self) -> str:
        """How messages and references name this store."""
        return self.root.as_uri()

    def list_adapters(self) -> list[str]:
        """``ns/name`` of every adapter with at least one version, sorted."""
        self.check_layout()
        return [
            f"{space}/{name}" for space, name in repository_names(self.root) if self.versions(space, name)
        ]

    def versions(self, namespace: str, name: str) -> list[str]:
        """Published versions, the lowest first; empty for an unknown adapter."""
        return Repository(self.root, namespace, name).versions()

    def resolve(self, reference: Reference) -> Snapshot:
        """Pin a version; without one, the latest release not yanked. ``main`` is what was published last.

        Raises:
            AdapterNotFound: There is no such adapter or version; says what there is.
            Yanked: No version is named, and all there are were yanked.
            DigestMismatch: The records of the version are damaged.
        """
        self.check_layout()
        repository = self._repository(reference)
        versions = repository.versions()
        wanted = reference.version or reference.digest
        if wanted is None:
            yanked = self.yanked(reference.namespace, reference.name)
            wanted = latest_offered(reference, versions, yanked)
        if wanted is None or not versions:
            raise no_adapter(reference, self.address, self.list_adapters())
        if wanted in versions:
            return self._snapshot(reference, *repository.commit(wanted))
        for commit, pointer in repository.commits():
            if wanted in (f"sha256:{commit.manifest.sha256}", pointer.oid):
                return self._snapshot(reference, commit, pointer)
        newest = repository.newest()
        if wanted == "main" and newest:
            return self._snapshot(reference, *newest)
        raise no_version(reference, self.address, versions)

    def read_manifest(self, reference: Reference) -> bytes:
        """The exact bytes of ``edgelora.json``, checked against their digest."""
        file = self.resolve(reference).manifest
        with self._open_blob(file) as blob:
            data = blob.read(MAX_MANIFEST_BYTES + 1)
        if hashlib.sha256(data).hexdigest() != file.sha256:
            raise damaged(f"blob {file.sha256}, the manifest of {reference},", "does not hash to its name")
        return data

    def open_file(self, snapshot: Snapshot, path: str, *, offset: int = 0) -> BinaryIO:
        """The bytes of one file from ``offset`` on, unchecked: whoever writes them down hashes them."""
        blob = self._open_blob(next(file for file in snapshot.files if file.path == path))
        blob.seek(offset)
        return blob

    def head(self, namespace: str, name: str) -> str | None:
        """The commit published last, or None."""
        newest = Repository(self.root, namespace, name).newest()
        return newest[1].oid if newest else None

    def release_sequence(self, namespace: str, name: str) -> int:
        """The highest release sequence an adapter was published with, removed versions included; or 0."""
        return Repository(self.root, namespace, name).release_sequence()

    def removed(self, namespace: str, name: str) -> list[Snapshot]:
        """Versions that were removed, each with its manifest only. Nothing else is published under them."""
        repository = Repository(self.root, namespace, name)
        published = repository.versions()
        adapter = Reference(None, namespace, name)
        return [
            Snapshot(adapter.at(found.version), found.pointer.oid, found.manifest, (found.manifest,))
            for found in repository.removals()
            if found.version not in published
        ]

    def put_file(self, source: BinaryIO, file: StoredFile) -> bool:
        """Store bytes, invisible until published; True when they were not there before."""
        self._prepare()
        return self._pool.put(source, file)

    def publish(self, publication: Publication) -> Snapshot:
        """Make a version visible: writing its tag is the commit point.

        Raises:
            VersionExists: The version holds other content, or did when it was removed.
            PublishRaced: ``parent`` is no longer the head, or ``release_sequence`` was reached meanwhile.
            FileSetMismatch: A file was not put.
            DigestMismatch: What the version holds, or held, is damaged.
        """
        reference = publication.reference
        repository = self._repository(reference)
        version = str(parse_version(reference.version or ""))
        self._prepare()
        with disk_full_is_an_error(self.root), exclusive_lock(repository.lock_path):
            reused = Publishing(repository, self._pool, publication, self.address).run(version)
            return replace(self._snapshot(reference, *repository.commit(version)), reused=reused)

    def remove(self, reference: Reference) -> Snapshot:
        """Take one version out of sight, and remember what it was. Its bytes stay until they are collected.

        Raises:
            ReferenceFormError: The reference names no version.
        """
        with self._writing(reference, "remove") as snapshot:
            repository = self._repository(reference)
            repository.delete(str(snapshot.reference.version), self._pool)
            repository.point_main(self._pool)
        return snapshot

    def yanked(self, namespace: str, name: str) -> dict[str, str]:
        """Versions their publisher withdrew, each with the reason; empty for an unknown adapter."""
        return Yanks(self.root, namespace, name).reasons()

    def yank(self, reference: Reference, reason: str) -> Snapshot:
        """Withdraw a version, in one line of reason. It stays, and is answered only to who names it.

        Raises:
            ReferenceFormError: The reference names no version, or the reason cannot be shown.
        """
        check_reason(reason)
        with self._writing(reference, "yank") as snapshot:
            commit, _ = self._repository(reference).commit(str(snapshot.reference.version))
            self._yanks(reference).write(Yank.of(commit, reason), self._pool)
        return replace(snapshot, yanked=reason)

    def unyank(self, reference: Reference) -> Snapshot:
        """Let a withdrawn version stand again; changes nothing for one that stands.

        Raises:
            ReferenceFormError: The reference names no version.
        """
        with self._writing(reference, "unyank") as snapshot:
            self._yanks(reference).clear(str(snapshot.reference.version))
        return replace(snapshot, yanked=None)

    def fsck(self) -> Report:
        """Hash everything again and report what is wrong; changes nothing."""
        self.check_layout()
        return check_mirror(self.root)

    def check_layout(self) -> None:
        """Refuse a directory that is not a mirror, or one of a layout this edgelora does not know.

        Raises:
            StoreNotFound: There is no directory.
            StoreError: It is something else.
        """
        if not self.root.is_dir():
            raise StoreNotFound(
                f"the store {self.address} does not exist: {self.root} is not a directory",
                fix="push an adapter to it first, mount its disk, or correct the path",
            )
        if not os.access(self.root, os.R_OK | os.X_OK):
            raise StoreError(
                f"the store {self.address} may not be read by this user",
                fix=f"ask its owner for access to {self.root}",
            )
        layout = self._layout()
        if layout is None:
            raise StoreError(
                f"{self.root} is not a mirror: it has no file VERSION",
                fix="name the directory of a mirror, or push to a new directory to make one",
            )
        if layout != LAYOUT:
            raise StoreError(
                f"{self.root} has the layout {layout[:80]!r}; this edgelora knows {LAYOUT!r}",
                fix="update edgelora, or name another store",
            )

    def _layout(self) -> bytes | None:
        try:
            return read_regular(self.root, "VERSION", limit=256)
        except MissingFile:
            return None

    def _prepare(self) -> None:
        """Make the directory where there is none, and clear away what dead writers left in ``tmp/``."""
        if self._is_prepared:
            return
        if not (self._make_parents or self.root.is_dir() or self.root.parent.is_dir()):
            raise StoreNotFound(
                f"the store {self.address} cannot be made: {self.root.parent} does not exist",
                fix=f"mount its disk, correct the path, or mkdir -p {self.root.parent}",
            )
        # Listed before VERSION is looked for: another writer makes VERSION before anything foreign.
        foreign = set(names(self.root)) - _SCAFFOLD
        if foreign and self._layout() is None:
            raise StoreError(
                f"{self.root} holds other things, so it is not made into a mirror",
                fix="push to a mirror or to a new, empty directory",
            )
        above = self.root if self.root.is_dir() else self.root.parent
        if above.is_dir() and not os.access(above, os.W_OK | os.X_OK):
            raise StoreError(
                f"the store {self.address} may not be written by this user",
                fix=f"ask the owner of {above} for access, or push to another store with --to",
            )
        with disk_full_is_an_error(self.root):
            make_dirs(self.root / "tmp")
            with exclusive_lock(self.root / "locks" / "layout.lock"):
                if self._layout() is None:
                    self._pool.place("VERSION", LAYOUT)
        self.check_layout()
        self._pool.clean()
        self._is_prepared = True

    @contextmanager
    def _writing(self, reference: Reference, what: str) -> Iterator[Snapshot]:
        """The version a reference names, with the adapter's lock held."""
        if reference.version is None and reference.digest is None:
            raise unpinned(reference, what, self.versions(reference.namespace, reference.name))
        self.check_layout()
        self._prepare()
        with disk_full_is_an_error(self.root), exclusive_lock(self._repository(reference).lock_path):
            yield self.resolve(reference)

    def _repository(self, reference: Reference) -> Repository:
        return Repository(self.root, reference.namespace, reference.name)

    def _open_blob(self, file: StoredFile) -> FileIO:
        try:
            return open_regular(self.root, blob_path(file.sha256))
        except MissingFile as error:
            raise FileSetMismatch(
                f"{self.address} lacks blob {file.sha256}, which is {file.path}",
                fix="publish the adapter there again, or use another mirror",
            ) from error

    def _snapshot(self, reference: Reference, commit: Commit, pointer: Pointer) -> Snapshot:
        reason = self._yanks(reference).reason(commit.version)
        pinned = reference.at(commit.version)
        return Snapshot(pinned, pointer.oid, commit.manifest, commit.files, yanked=reason)

    def _yanks(self, reference: Reference) -> Yanks:
        return Yanks(self.root, reference.namespace, reference.name)
