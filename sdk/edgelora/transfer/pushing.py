"""Publishing an adapter folder: verify, put every file, then one visible step."""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from edgelora.confined import open_regular, read_regular
from edgelora.errors import DigestMismatch, FileSetMismatch, PublishRaced, ReferenceFormError, VersionExists
from edgelora.manifest import (
    MANIFEST_NAME,
    MAX_MANIFEST_BYTES,
    SIGNATURE_NAME,
    UNPUBLISHED,
    DerivedFrom,
    FileEntry,
    Manifest,
    manifest_bytes,
    parse_manifest,
)
from edgelora.store import (
    Publication,
    Reference,
    Snapshot,
    Store,
    StoredFile,
    open_store,
    parse_reference,
    parse_version,
    sort_versions,
)
from edgelora.store.refusals import version_exists
from edgelora.transfer.cosigning import all_signatures, check_not_rewritten, own_signature
from edgelora.verify import check

_ATTEMPTS = 20


@dataclass(frozen=True, slots=True)
class Receipt:
    """What was published, and how much of it was there before."""

    reference: str
    """With the version."""
    store: str
    commit: str
    manifest_digest: str
    files: int
    """The manifest included."""
    bytes: int
    reused_bytes: int
    """Of files whose bytes the store held already."""
    reused: bool
    """Nothing was published: this version held exactly this content before."""
    license: str
    """Under which others may use it."""


def push(folder: Path, reference: str, to: str | None = None, *, public: bool = False) -> Receipt:
    """Publish an adapter under ``ns/name`` or ``ns/name@version``.

    Without a version, the one in the manifest is used; for a folder that was never published, the next one
    after the highest in the store, or that under which the same content is there. The reference may differ
    from the identity in the manifest: then the *published copy* of the manifest gets the reference's
    identity, the next release sequence and the time as creation date. The folder is never changed. Publishing
    the same content under the same version again changes nothing but its signatures: the folder's are added.

    Args:
        folder: An adapter directory.
        reference: Under which name.
        to: A store's name or address, instead of the one in the reference or the default store.
        public: If a remote store has to make a repository, make one that everybody may read.

    Raises:
        VersionExists: The version holds other content, or did when it was removed.
        SignedManifest: The folder is signed, and its manifest would have to get another identity.
        EdgeloraError: What `edgelora.verify.check` finds.
    """
    wanted = parse_reference(reference)
    store = open_store(store_named(wanted, to))
    manifest = check(folder)
    data = _reread(folder, manifest)
    target = _with_version(wanted, manifest, store)
    signature = own_signature(folder, manifest, data)
    issue = _issue(manifest, data, target, store)
    reused_bytes = sum(_put(store, folder, entry) for entry in manifest.files)
    for attempt in range(1, _ATTEMPTS + 1):
        check_not_rewritten(signature, data, issue.data, target)
        file, is_new = _put_bytes(store, MANIFEST_NAME, issue.data)
        signatures = all_signatures(signature, issue.published, store)
        signed = [] if signatures is None else [_put_bytes(store, SIGNATURE_NAME, signatures)[0]]
        files = (*map(_stored, manifest.files), file, *signed)
        try:
            snapshot = store.publish(
                Publication(target, files, issue.head, issue.release_sequence, public=public)
            )
            break
        except (PublishRaced, VersionExists):
            if attempt == _ATTEMPTS:
                raise
            # Someone was faster. If it was with other content under this version, the next line says so.
            issue = _issue(manifest, data, target, store)
    return Receipt(
        reference=str(snapshot.reference),
        store=store.address,
        commit=snapshot.commit,
        manifest_digest=f"sha256:{file.sha256}",
        files=len(snapshot.files),
        bytes=sum(stored.size for stored in snapshot.files),
        reused_bytes=reused_bytes + (0 if is_new else file.size),
        reused=snapshot.reused,
        license=manifest.license,
    )


def store_named(reference: Reference, given: str | None) -> str | None:
    """The store of a command: named by its option or inside the reference, but not differently by both.

    Raises:
        ReferenceFormError: They name two stores.
    """
    if given == "":
        raise ReferenceFormError("the name of the store is empty", fix="name one: edgelora stores list")
    if given is not None and reference.store not in (None, given):
        raise ReferenceFormError(
            f"{reference} names the store {reference.store}, and the option names {given}",
            fix=f"leave one of them out: {replace(reference, store=None)}",
        )
    return given or reference.store


def _reread(folder: Path, manifest: Manifest) -> bytes:
    data = read_regular(folder, MANIFEST_NAME, limit=MAX_MANIFEST_BYTES)
    if parse_manifest(data, str(folder / MANIFEST_NAME)) != manifest:
        raise DigestMismatch(
            f"{folder / MANIFEST_NAME} changed while it was read",
            fix="leave the folder alone while it is pushed",
        )
    return data


def _with_version(wanted: Reference, manifest: Manifest, store: Store) -> Reference:
    if wanted.digest:
        raise ReferenceFormError(
            f"{wanted} names a digest, which only reading can do",
            fix=f"publish as {wanted.at(manifest.identity.version)}",
        )
    if wanted.version is None and manifest.identity.namespace == UNPUBLISHED:
        return _next_version(wanted, manifest, store)
    return wanted.at(str(parse_version(wanted.version or manifest.identity.version)))


def _next_version(wanted: Reference, manifest: Manifest, store: Store) -> Reference:
    published = store.versions(wanted.namespace, wanted.name)
    removed = [str(found.reference.version) for found in store.removed(wanted.namespace, wanted.name)]
    taken = sort_versions({*published, *removed})
    if not taken:
        return wanted.at(manifest.identity.version)
    if published:
        last = wanted.at(published[-1])
        there = parse_manifest(store.read_manifest(last), str(last))
        if there == manifest.model_copy(update={"identity": there.identity}):
            return last
    return wanted.at(str(parse_version(taken[-1]).after))


def _put(store: Store, folder: Path, entry: FileEntry) -> int:
    """Put one file; how many of its bytes the store held already."""
    with open_regular(folder, entry.path) as source:
        return 0 if store.put_file(source, _stored(entry)) else entry.size


def _put_bytes(store: Store, name: str, data: bytes) -> tuple[StoredFile, bool]:
    """Put a file that no manifest lists; whether it was not there before."""
    file = StoredFile(name, len(data), hashlib.sha256(data).hexdigest())
    return file, store.put_file(io.BytesIO(data), file)


def _stored(entry: FileEntry) -> StoredFile:
    return StoredFile(entry.path, entry.size, entry.sha256)


@dataclass(frozen=True, slots=True)
class _Issue:
    """A manifest to publish, and what it was made on."""

    head: str | None
    release_sequence: int
    data: bytes
    published: Snapshot | None = None
    """The version, where it is there already."""


def _issue(manifest: Manifest, data: bytes, target: Reference, store: Store) -> _Issue:
    """The manifest to publish on the store's head: the folder's bytes if they fit, else a copy."""
    # The head first: if someone publishes in between, publishing on it is refused, and this is done again.
    head = store.head(target.namespace, target.name)
    own = manifest.identity
    taken = _taken(target, store)
    if taken:
        issue = _reissue(manifest, data, target, store, taken)
        if taken.reference.version not in store.versions(target.namespace, target.name):
            return replace(issue, head=head)
        # Nothing but signatures can change in a version that is there: they are put beside this very commit.
        return replace(issue, head=taken.commit, published=taken)
    sequence = store.release_sequence(target.namespace, target.name)
    is_named_so = (own.namespace, own.name, own.version) == (target.namespace, target.name, target.version)
    if is_named_so and own.release_sequence > sequence:
        return _Issue(head, own.release_sequence, data)
    copy = with_origin(manifest, data, target)
    identity = own.model_copy(
        update={
            "namespace": target.namespace,
            "name": target.name,
            "version": target.version,
            "created_at": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "release_sequence": sequence + 1,
        }
    )
    return _Issue(head, sequence + 1, manifest_bytes(copy.model_copy(update={"identity": identity})))


def with_origin(manifest: Manifest, data: bytes, target: Reference) -> Manifest:
    """The manifest as it is published under ``target``: another adapter's release is named as its origin.

    An adapter that was packed on this machine and never published has the namespace ``local``.
    """
    own = manifest.identity
    if own.namespace == UNPUBLISHED or (own.namespace, own.name) == (target.namespace, target.name):
        return manifest
    origin = DerivedFrom(manifest_digest=f"sha256:{hashlib.sha256(data).hexdigest()}", relation="republished")
    return manifest.model_copy(update={"derived_from": (*(manifest.derived_from or ()), origin)})


def _taken(target: Reference, store: Store) -> Snapshot | None:
    """What the version holds, or held when it was removed."""
    if target.version in store.versions(target.namespace, target.name):
        return store.resolve(target)
    removed = store.removed(target.namespace, target.name)
    return next((found for found in removed if found.reference.version == target.version), None)


def _reissue(manifest: Manifest, data: bytes, target: Reference, store: Store, taken: Snapshot) -> _Issue:
    if hashlib.sha256(data).hexdigest() == taken.manifest.sha256:
        return _Issue(None, manifest.identity.release_sequence, data)
    return _published_again(with_origin(manifest, data, target), target, store, taken)


def _published_again(manifest: Manifest, target: Reference, store: Store, taken: Snapshot) -> _Issue:
    """The manifest this version was published with, if it was of the same adapter."""
    removed = [str(found.reference.version) for found in store.removed(target.namespace, target.name)]
    refusal = version_exists(
        target, store.address, store.versions(target.namespace, target.name), removed=removed
    )
    try:
        with store.open_file(taken, MANIFEST_NAME) as file:
            data = file.read(MAX_MANIFEST_BYTES + 1)
    except FileSetMismatch:
        data = b""
    if hashlib.sha256(data).hexdigest() != taken.manifest.sha256:
        raise DigestMismatch(
            f"the manifest of {target} in {store.address}, blob {taken.manifest.sha256}, is damaged or lost, "
            "so nothing can be compared with it",
            fix=f"{refusal.fix}: only this version is affected",
        )
    published = parse_manifest(data, str(target))
    if published != manifest.model_copy(update={"identity": published.identity}):
        raise refusal
    return _Issue(None, published.identity.release_sequence, data)
