"""Making a version of a directory mirror visible: a new one, or one that was removed and comes back."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime

from edgelora.errors import DigestMismatch, PublishRaced, VersionExists
from edgelora.manifest import MANIFEST_NAME, SIGNATURE_NAME
from edgelora.store.blobs import BlobPool
from edgelora.store.protocol import Publication, StoredFile
from edgelora.store.records import Commit, Pointer, Removal
from edgelora.store.refusals import refuse_case_clash, version_exists
from edgelora.store.repository import Repository


@dataclass(frozen=True, slots=True)
class Publishing:
    """One publication into one repository, whose lock is held."""

    repository: Repository
    pool: BlobPool
    publication: Publication
    address: str
    """Of the store, for messages."""

    def run(self, version: str) -> bool:
        """Let ``version`` be what is published; True if it was before. Writing its tag is the commit point.

        Raises:
            VersionExists: The version holds other content, did when it was removed, or clashes by case.
            PublishRaced: The publication was made on a head or a sequence that others went past.
            FileSetMismatch: A file was not put.
            DigestMismatch: The record of what the version held is damaged.
        """
        # Whatever happens below, first put right what a crash may have left behind.
        self.repository.point_main(self.pool)
        if version in self.repository.versions():
            reused = self._is_same_or_signed(*self.repository.commit(version))
            self.repository.point_main(self.pool)
            return reused
        removal = self.repository.removal(version)
        if removal:
            self._bring_back(removal)
        else:
            self._add(version)
        self.repository.point_main(self.pool)
        return False

    def _add(self, version: str) -> None:
        newest = self.repository.newest()
        issued = self.publication.release_sequence
        # The head alone does not tell: a version may have been published and removed in between.
        if (
            newest[1].oid if newest else None
        ) != self.publication.parent or issued <= self.repository.release_sequence():
            raise self._raced()
        taken = [*self.repository.versions(), *self.repository.removed_versions()]
        refuse_case_clash(self.publication.reference, self.address, taken)
        self._write(version, self.repository.sequence() + 1, issued)

    def _bring_back(self, removal: Removal) -> None:
        manifest = next(file for file in self.publication.files if file.path == MANIFEST_NAME)
        if manifest != removal.manifest:
            raise self._taken()
        try:
            commit = self.repository.record(removal.pointer, removal.version)
        except DigestMismatch:
            # The commit was collected or damaged; what it said about the order of versions is known.
            self._write(removal.version, removal.sequence, removal.release_sequence)
            return
        if _content(commit.files) != _content(self.publication.files):
            raise self._taken()
        self._require_files()
        self.repository.tag(removal.version, removal.pointer, self.pool)
        if set(commit.files) != set(self.publication.files):
            self._sign(commit, removal.pointer)

    def _is_same_or_signed(self, commit: Commit, pointer: Pointer) -> bool:
        """True if nothing changes; a version never does, but more signatures may be put beside it."""
        if set(commit.files) == set(self.publication.files):
            return True
        if _content(commit.files) != _content(self.publication.files):
            raise self._taken()
        if self.publication.parent != pointer.oid:
            # The signatures were gathered on a commit that another signer has replaced.
            raise self._raced()
        self._require_files()
        self._sign(commit, pointer)
        return False

    def _sign(self, commit: Commit, pointer: Pointer) -> None:
        """The same version with other signatures: a new commit in its place, and then its tag."""
        changed = replace(commit, parent=pointer.oid, created_at=_now(), files=self._files())
        self.repository.write(changed, self.pool)

    def _write(self, version: str, sequence: int, release_sequence: int) -> None:
        self._require_files()
        commit = Commit(
            adapter=self.publication.reference.adapter,
            version=version,
            sequence=sequence,
            release_sequence=release_sequence,
            parent=self.publication.parent,
            created_at=_now(),
            message=self.publication.message,
            files=self._files(),
        )
        self.repository.write(commit, self.pool)

    def _files(self) -> tuple[StoredFile, ...]:
        return tuple(sorted(self.publication.files, key=lambda file: file.path.encode()))

    def _require_files(self) -> None:
        for file in self.publication.files:
            self.pool.require(file)

    def _raced(self) -> PublishRaced:
        return PublishRaced(
            f"others publish to {self.publication.reference.adapter} in {self.address} at the same time",
            fix="run the push again",
        )

    def _taken(self) -> VersionExists:
        removed = [removal.version for removal in self.repository.removals()]
        return version_exists(
            self.publication.reference, self.address, self.repository.versions(), removed=removed
        )


def _content(files: tuple[StoredFile, ...]) -> set[StoredFile]:
    """What a version is: everything but the signatures."""
    return {file for file in files if file.path != SIGNATURE_NAME}


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
