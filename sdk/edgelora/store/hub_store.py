"""A remote store: the Hub, or any endpoint that speaks its protocol. One repository is one adapter.

A version is a tag on a commit of `main`; the tag is what makes it exist. Whatever the endpoint says about
files, the manifest decides: sizes and digests come from it, and are compared with what is listed.
"""

from __future__ import annotations

import io
from dataclasses import replace
from datetime import UTC, datetime
from typing import BinaryIO, cast

from edgelora.errors import AdapterNotFound, EdgeloraError, ReferenceFormError
from edgelora.locations import cache_dir
from edgelora.manifest import SIGNATURE_NAME
from edgelora.store.endpoint import Endpoint
from edgelora.store.http_reading import HttpReader
from edgelora.store.hub import MAIN, HubClient
from edgelora.store.hub_publishing import HubPublishing
from edgelora.store.hub_records import HubRecords, Tombstone, tombstone_path, yank_path
from edgelora.store.hub_repository import HubRepository, Refs, repository_names
from edgelora.store.hub_snapshot import commit_of_digest, sequence_at, snapshot_of, with_signature
from edgelora.store.protocol import Publication, Snapshot, StoredFile
from edgelora.store.reference import Reference, check_name
from edgelora.store.refusals import no_adapter, no_version
from edgelora.store.spool import Spool
from edgelora.store.versions import is_version, parse_version
from edgelora.store.yanks import Yank, check_reason, latest_offered

_MAX_SEARCHED = 256
"""Each version that is searched for a digest costs a request."""


class HubStore:
    """An endpoint that speaks the Hub's protocol.

    Args:
        endpoint: Where it is; nothing else is contacted, but for where it redirects the download of a file.
    """

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self._reader = HttpReader(endpoint)
        self._client = HubClient(endpoint)
        self._spool = Spool(cache_dir())
        self._manifests: dict[Reference, bytes] = {}
        self._signatures: dict[Reference, bytes | None] = {}
        self._records_seen: dict[str, str | None] = {}

    @property
    def address(self) -> str:
        """How messages and references name this store."""
        return self.endpoint.address

    def list_adapters(self) -> list[str]:
        """``ns/name`` of every adapter with at least one version, sorted."""
        return [name for name in self._names() if self.versions(*name.split("/"))]

    def versions(self, namespace: str, name: str) -> list[str]:
        """Published versions, the lowest first; empty for an unknown adapter."""
        refs = self._repository(namespace, name).refs()
        return refs.versions if refs else []

    def resolve(self, reference: Reference) -> Snapshot:
        """Pin a version; without one, the latest release not yanked. A branch is its newest commit.

        Raises:
            AdapterNotFound: There is no such adapter or version; says what there is.
            Yanked: No version is named, and all there are were yanked.
            ReplyRefused: What the endpoint answers breaks the protocol.
        """
        repository = self._repository(reference.namespace, reference.name)
        refs = repository.refs()
        if refs is None:
            raise no_adapter(reference, self.address, self._neighbours(reference.namespace))
        records = HubRecords(repository, reference.adapter, refs)
        wanted = reference.version or reference.digest
        if wanted is None:
            wanted = latest_offered(reference, refs.versions, records.yanked())
        if wanted is None:
            raise no_adapter(reference, self.address, self._neighbours(reference.namespace))
        commit = refs.tags.get(wanted) or refs.branches.get(wanted)
        if commit is None and reference.digest:
            commit = self._commit_of_digest(repository, refs, reference)
        elif commit is None and wanted in refs.tags.values():
            commit = wanted
        if commit is None:
            raise no_version(reference, self.address, refs.versions or sorted(refs.branches))
        # Only a tag promises a version; the commit of a branch says itself which one it is.
        pinned = (
            reference.at(wanted) if wanted in refs.tags else replace(reference, version=None, digest=None)
        )
        snapshot, manifest = snapshot_of(repository, pinned, commit, self.address)
        snapshot, signature = with_signature(snapshot, records)
        self._manifests[snapshot.reference] = manifest
        self._signatures[snapshot.reference] = signature
        self._records_seen[reference.adapter] = records.head
        return replace(snapshot, yanked=records.reason(str(snapshot.reference.version)))

    def read_manifest(self, reference: Reference) -> bytes:
        """The exact bytes of ``edgelora.json``; those that were read when the version was pinned."""
        if reference not in self._manifests:
            reference = self.resolve(reference).reference
        return self._manifests.pop(reference)

    def open_file(self, snapshot: Snapshot, path: str, *, offset: int = 0) -> BinaryIO:
        """The bytes of one file from ``offset`` on, unchecked: whoever writes them down hashes them."""
        signature = self._signatures.get(snapshot.reference) if path == SIGNATURE_NAME else None
        if signature is not None:
            return io.BytesIO(signature[offset:])
        file = next(file for file in snapshot.files if file.path == path)
        repository = self._repository(snapshot.reference.namespace, snapshot.reference.name)
        return cast("BinaryIO", repository.open_file(snapshot.commit, path, size=file.size, offset=offset))

    def head(self, namespace: str, name: str) -> str | None:
        """The newest commit of ``main``, or None."""
        refs = self._repository(namespace, name).refs()
        return refs.branches.get(MAIN) if refs else None

    def release_sequence(self, namespace: str, name: str) -> int:
        """The highest release sequence an adapter was published with, removed versions included; or 0."""
        repository = self._repository(namespace, name)
        refs = repository.refs()
        if refs is None:
            return 0
        removed = HubRecords(repository, f"{namespace}/{name}", refs).tombstones()
        head = refs.branches.get(MAIN)
        # Each version is committed on the one before, so the newest commit says it all, if it is a version.
        commits = {head} if head in refs.tags.values() else {head, *refs.tags.values()}
        issued = [sequence_at(repository, commit) for commit in commits if commit]
        return max([0, *issued, *(tombstone.release_sequence for tombstone in removed)])

    def removed(self, namespace: str, name: str) -> list[Snapshot]:
        """Versions that were removed, each with its manifest only. Nothing else is published under them."""
        repository = self._repository(namespace, name)
        refs = repository.refs()
        if refs is None:
            return []
        adapter = Reference(None, namespace, name)
        return [
            Snapshot(adapter.at(found.version), found.commit, found.manifest, (found.manifest,))
            for found in HubRecords(repository, adapter.adapter, refs).tombstones()
            if found.version not in refs.tags
        ]

    def put_file(self, source: BinaryIO, file: StoredFile) -> bool:
        """Keep a copy until it is published; True, because what the endpoint holds already shows only then.

        Raises:
            DigestMismatch: ``source`` does not hold what ``file`` says.
            DiskFull: No space is left for the copy.
        """
        self._spool.put(source, file)
        return True

    def publish(self, publication: Publication) -> Snapshot:
        """Make a version visible: one commit, checked by reading it back, then the tag that makes it exist.

        Raises:
            VersionExists: The version holds other content, or did when it was removed.
            PublishRaced: ``parent`` is no longer the head.
            FileSetMismatch: A file was not put.
            DigestMismatch: The endpoint did not keep what it was sent.
        """
        reference = publication.reference
        repository = self._repository(reference.namespace, reference.name)
        seen = self._records_seen.get(reference.adapter)
        publishing = HubPublishing(
            repository, self._client, publication, self._spool.files, self.address, seen
        )
        snapshot = publishing.run(str(parse_version(reference.version or "")))
        self._spool.clear()
        return snapshot

    def remove(self, reference: Reference) -> Snapshot:
        """Take a version out of sight, and remember what it was. ``main`` stays until the next publication.

        Raises:
            ReferenceFormError: The reference names no version.
        """
        snapshot = self._named(reference, "remove")
        repository = self._repository(reference.namespace, reference.name)
        sequence = sequence_at(repository, snapshot.commit)
        version = str(snapshot.reference.version)
        tombstone = Tombstone(reference.adapter, version, snapshot.commit, snapshot.manifest, sequence)
        new = {tombstone_path(version): tombstone.encode()}
        self._records(snapshot).write(self._client, new, message=f"Remove {version}")
        self._client.untag(reference.adapter, version)
        return snapshot

    def yanked(self, namespace: str, name: str) -> dict[str, str]:
        """Versions their publisher withdrew, each with the reason; empty for an unknown adapter."""
        repository = self._repository(namespace, name)
        refs = repository.refs()
        return HubRecords(repository, f"{namespace}/{name}", refs).yanked() if refs else {}

    def yank(self, reference: Reference, reason: str) -> Snapshot:
        """Withdraw a version, in one line of reason. It stays, and is answered only to who names it.

        Raises:
            ReferenceFormError: The reference names no version, or the reason cannot be shown.
        """
        check_reason(reason)
        snapshot = self._named(reference, "yank")
        version = str(snapshot.reference.version)
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        yank = Yank(reference.adapter, version, snapshot.manifest, reason, now)
        new = {yank_path(version): yank.encode()}
        self._records(snapshot).write(self._client, new, message=f"Yank {version}")
        return replace(snapshot, yanked=reason)

    def unyank(self, reference: Reference) -> Snapshot:
        """Let a withdrawn version stand again; changes nothing for one that stands.

        Raises:
            ReferenceFormError: The reference names no version.
        """
        snapshot = self._named(reference, "unyank")
        if snapshot.yanked is not None:
            version = str(snapshot.reference.version)
            gone = [yank_path(version)]
            self._records(snapshot).write(self._client, {}, message=f"Unyank {version}", gone=gone)
        return replace(snapshot, yanked=None)

    def _commit_of_digest(self, repository: HubRepository, refs: Refs, reference: Reference) -> str | None:
        versions = refs.versions[::-1]
        commits = [refs.tags[version] for version in versions[:_MAX_SEARCHED]]
        commit = commit_of_digest(repository, commits, str(reference.digest))
        if commit is None and len(versions) > _MAX_SEARCHED:
            raise AdapterNotFound(
                f"{self.address} holds {len(versions)} versions of {reference.adapter}, and none of the "
                f"{_MAX_SEARCHED} highest has {reference.digest}",
                fix=f"name the version, as in {reference.at(versions[0])}",
            )
        return commit

    def _named(self, reference: Reference, verb: str) -> Snapshot:
        if reference.digest is None and not is_version(reference.version or ""):
            versions = self.versions(reference.namespace, reference.name)
            raise ReferenceFormError(
                f"{reference} does not say which version to {verb}",
                fix=f"write {reference.at(versions[-1] if versions else '1.0.0')}",
            )
        return self.resolve(reference)

    def _records(self, snapshot: Snapshot) -> HubRecords:
        repository = self._repository(snapshot.reference.namespace, snapshot.reference.name)
        return HubRecords(repository, snapshot.reference.adapter, repository.refs() or Refs({}, {}))

    def _repository(self, namespace: str, name: str) -> HubRepository:
        return HubRepository(self._reader, f"{namespace}/{name}")

    def _names(self, *, author: str | None = None) -> list[str]:
        return [name for name in repository_names(self._reader, author=author) if _can_be_named(name)]

    def _neighbours(self, namespace: str) -> list[str]:
        """Other adapters under the same name, to suggest; none if the endpoint does not say."""
        try:
            return self._names(author=namespace)
        except EdgeloraError:
            return []


def _can_be_named(adapter: str) -> bool:
    try:
        for part in adapter.split("/"):
            check_name(part, what="a name")
    except ReferenceFormError:
        return False
    return True
