"""Making a version of a remote repository visible: one commit on the head it was made for, then its tag."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import BinaryIO

from edgelora.errors import DigestMismatch, FileSetMismatch, PublishRaced, VersionExists
from edgelora.manifest import MANIFEST_NAME, SIGNATURE_NAME
from edgelora.store.hub import MAIN, AlreadyThere, HubClient
from edgelora.store.hub_records import HubRecords, signature_path
from edgelora.store.hub_repository import GENERATED, HubRepository, Refs
from edgelora.store.hub_snapshot import snapshot_of, with_signature
from edgelora.store.protocol import Publication, Snapshot, StoredFile
from edgelora.store.refusals import refuse_case_clash, version_exists


@dataclass(frozen=True, slots=True)
class HubPublishing:
    """One publication into one repository."""

    repository: HubRepository
    client: HubClient
    publication: Publication
    kept: Mapping[str, BinaryIO]
    """Files that were put, by digest."""
    address: str
    """Of the store, for messages."""
    records_seen: str | None
    """The newest commit of the records when the publication was prepared; its signatures are from there."""

    def run(self, version: str) -> Snapshot:
        """Let ``version`` be what is published.

        Raises:
            VersionExists: The version holds other content, did when it was removed, or clashes by case.
            PublishRaced: Others published since the manifest was made.
            FileSetMismatch: A file was not put.
            DigestMismatch: The endpoint did not keep what it was sent.
        """
        refs = self.repository.refs()
        if refs is None:
            self.client.make_repository(self._adapter, public=self.publication.public)
            refs = self.repository.refs() or Refs({}, {})
        records = HubRecords(self.repository, self._adapter, refs)
        if version in refs.tags:
            return self._published_before(version, refs, records)
        if records.has_tombstone(version):
            commit = self._removed_commit(version, records, refs)
        else:
            taken = [*refs.versions, *(tombstone.version for tombstone in records.tombstones())]
            refuse_case_clash(self.publication.reference, self.address, taken)
            commit = self._commit(refs)
        snapshot = self._snapshot(version, commit, records)
        if _content(snapshot.files) != _content(self.publication.files):
            raise DigestMismatch(
                f"{self.address} did not keep the files of {self.publication.reference} as they were sent: "
                "it is not published",
                fix="push it again, or to another store",
            )
        try:
            self.client.tag(self._adapter, version, commit=commit)
        except AlreadyThere:
            refs = self.repository.refs() or refs
            return self._published_before(version, refs, HubRecords(self.repository, self._adapter, refs))
        return self._signed(version, snapshot, records)

    @property
    def _adapter(self) -> str:
        return self.publication.reference.adapter

    def _published_before(self, version: str, refs: Refs, records: HubRecords) -> Snapshot:
        snapshot = self._snapshot(version, refs.tags[version], records)
        if set(snapshot.files) == set(self.publication.files):
            return replace(snapshot, reused=True)
        if _content(snapshot.files) != _content(self.publication.files):
            raise self._taken(refs, records)
        if records.head != self.records_seen:
            raise self._raced()
        return self._signed(version, snapshot, records)

    def _signed(self, version: str, snapshot: Snapshot, records: HubRecords) -> Snapshot:
        """The version with the publication's signatures, put among the records: it stays the same commit."""
        file = next((file for file in self.publication.files if file.path == SIGNATURE_NAME), None)
        if file is None or file in snapshot.files:
            return snapshot
        source = self._put(file)
        source.seek(0)
        records.write(self.client, {signature_path(version): source.read()}, message=f"Sign {version}")
        return replace(snapshot, files=self.publication.files)

    def _removed_commit(self, version: str, records: HubRecords, refs: Refs) -> str:
        tombstone = records.tombstone(version)
        manifest = next(file for file in self.publication.files if file.path == MANIFEST_NAME)
        if manifest != tombstone.manifest:
            raise self._taken(refs, records)
        return tombstone.commit

    def _commit(self, refs: Refs) -> str:
        head = refs.branches.get(MAIN)
        if head != self.publication.parent and not (self.publication.parent is None and self._is_blank(refs)):
            raise self._raced()
        new = {file.path: self._put(file) for file in self.publication.files}
        old = self.repository.tree(head) if head else {}
        gone = sorted(old.keys() - new.keys() - GENERATED)
        version = self.publication.reference.version
        message = self.publication.message or f"Publish {self._adapter} {version}"
        return self.client.commit(self._adapter, new, gone, parent=head, message=message)

    def _is_blank(self, refs: Refs) -> bool:
        """Whether nothing was published yet: the repository is as the endpoint made it."""
        head = refs.branches.get(MAIN)
        return not refs.tags and (head is None or self.repository.manifest(head) is None)

    def _put(self, file: StoredFile) -> BinaryIO:
        if file.sha256 not in self.kept:
            raise FileSetMismatch(
                f"{file.path} cannot be published: its bytes were not put",
                fix="put every file before publishing; run the push again",
            )
        return self.kept[file.sha256]

    def _snapshot(self, version: str, commit: str, records: HubRecords) -> Snapshot:
        reference = self.publication.reference.at(version)
        snapshot, _ = snapshot_of(self.repository, reference, commit, self.address)
        return with_signature(snapshot, records)[0]

    def _raced(self) -> PublishRaced:
        return PublishRaced(
            f"others publish to {self._adapter} in {self.address} at the same time", fix="run the push again"
        )

    def _taken(self, refs: Refs, records: HubRecords) -> VersionExists:
        removed = [tombstone.version for tombstone in records.tombstones()]
        return version_exists(self.publication.reference, self.address, refs.versions, removed=removed)


def _content(files: tuple[StoredFile, ...]) -> set[StoredFile]:
    """What a version is: everything but the signatures."""
    return {file for file in files if file.path != SIGNATURE_NAME}
