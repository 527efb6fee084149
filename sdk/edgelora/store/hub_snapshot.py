"""From one commit of a remote repository to the files of a version, with the manifest as the judge."""

from __future__ import annotations

import hashlib
from dataclasses import replace

from edgelora.errors import AdapterNotFound, EdgeloraError
from edgelora.manifest import (
    MANIFEST_NAME,
    MAX_MANIFEST_BYTES,
    SIGNATURE_NAME,
    Manifest,
    is_unlisted,
    parse_manifest,
)
from edgelora.store.hub_records import HubRecords
from edgelora.store.hub_repository import GENERATED, HubRepository, TreeFile
from edgelora.store.protocol import Snapshot, StoredFile
from edgelora.store.reference import Reference

_UNKNOWN = "0" * 64


def snapshot_of(
    repository: HubRepository, reference: Reference, commit: str, address: str
) -> tuple[Snapshot, bytes]:
    """The version at a commit, and the bytes of its manifest.

    A digest the endpoint does not list is taken from the manifest; a file that neither knows gets a digest
    nothing has, so that it is refused. Without a version in the reference, that of the manifest is filled in.

    Raises:
        AdapterNotFound: The commit holds no manifest.
        ManifestError: It holds one that cannot be read.
    """
    data = repository.manifest(commit)
    if data is None:
        raise AdapterNotFound(
            f"{address} holds {reference}, but no {MANIFEST_NAME} in it",
            fix=f"if it is an adapter of stock PEFT, give it a manifest: edgelora adopt {reference}",
        )
    manifest = parse_manifest(data, f"the manifest of {reference}")
    known = {entry.path: entry.sha256 for entry in manifest.files}
    files = [StoredFile(MANIFEST_NAME, len(data), hashlib.sha256(data).hexdigest())]
    for path, file in repository.tree(commit).items():
        if path not in GENERATED and path != MANIFEST_NAME:
            sha256 = file.sha256 or known.get(path) or _digest_of(repository, commit, path, file)
            files.append(StoredFile(path, file.size, sha256))
    files.sort(key=lambda file: file.path.encode())
    pinned = reference.at(_pinned_version(reference, manifest))
    return Snapshot(pinned, commit, next(f for f in files if f.path == MANIFEST_NAME), tuple(files)), data


def with_signature(snapshot: Snapshot, records: HubRecords) -> tuple[Snapshot, bytes | None]:
    """The version with the signatures it got later in the place of its first ones, and their bytes."""
    data = records.signature(str(snapshot.reference.version))
    if data is None:
        return snapshot, None
    file = StoredFile(SIGNATURE_NAME, len(data), hashlib.sha256(data).hexdigest())
    files = [other for other in snapshot.files if other.path != SIGNATURE_NAME] + [file]
    return replace(snapshot, files=tuple(sorted(files, key=lambda each: each.path.encode()))), data


def sequence_at(repository: HubRepository, commit: str) -> int:
    """The release sequence in the manifest of a commit; 0 where there is none that can be read."""
    try:
        data = repository.manifest(commit)
        return parse_manifest(data, commit).identity.release_sequence if data else 0
    except EdgeloraError as error:
        # What is no manifest says nothing about releases; what did not come must not be guessed.
        if error.exit_code == 9:
            raise
        return 0


def commit_of_digest(repository: HubRepository, commits: list[str], digest: str) -> str | None:
    """The commit whose manifest has this digest."""
    for commit in commits:
        data = repository.manifest(commit)
        if data is not None and f"sha256:{hashlib.sha256(data).hexdigest()}" == digest:
            return commit
    return None


def _pinned_version(reference: Reference, manifest: Manifest) -> str:
    return reference.version or manifest.identity.version


def _digest_of(repository: HubRepository, commit: str, path: str, file: TreeFile) -> str:
    if not is_unlisted(path) or file.size > MAX_MANIFEST_BYTES:
        return _UNKNOWN
    return hashlib.sha256(repository.read(commit, path, MAX_MANIFEST_BYTES)).hexdigest()
