"""Importing a bundle: everything is checked before anything is published, and what was done is kept."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edgelora.bundles.base_import import import_base, missing_base_bytes
from edgelora.bundles.index import BundledAdapter
from edgelora.bundles.reading import Bundle, all_blobs_are_named, open_bundle
from edgelora.bundles.trust import judge_adapters, judge_index
from edgelora.errors import DiskFull, PublishRaced, Rollback
from edgelora.locations import home
from edgelora.manifest import MANIFEST_NAME, Manifest
from edgelora.signing import TrustPolicy, read_policy
from edgelora.store import DirectoryStore, Publication, Snapshot, Store, StoredFile, open_store
from edgelora.store.blobs import blob_path

_SPARE_BYTES = 2**20
_ATTEMPTS = 20


@dataclass(frozen=True, slots=True)
class Imported:
    """What a bundle brought."""

    store: str
    adapters: tuple[str, ...]
    """``ns/name@version`` of each, in the order they were published."""
    reused: tuple[str, ...]
    """Those of them that were there before, just so."""
    bases: tuple[str, ...]
    """``tensorsDigest`` of each base that is on this machine now."""
    copied_bytes: int
    """Of files that were not there before."""


def import_bundle(
    path: Path, to: str | None = None, *, policy: TrustPolicy | None = None, require_signature: bool = False
) -> Imported:
    """Bring what a bundle holds into a store, and its bases onto this machine.

    Nothing is published before the whole index, every manifest and every file was checked. An import that
    was interrupted is continued by the next one: files that are there are not copied again.

    Args:
        path: The bundle.
        to: A store's name or address; None is the default store.
        policy: Whose signatures count; None reads the policy in force. Adapters are judged as by a pull.
        require_signature: Refuse a bundle whose index too few trusted keys signed.

    Raises:
        BundleError: It is no bundle, or is cut off.
        DigestMismatch: Content differs from what the index or a manifest says.
        FileSetMismatch: A file is missing, or one belongs to nothing.
        VersionExists: The store holds a version with other content.
        Rollback: The store holds a later release, and not this one.
        DiskFull: No space is left.
        Unsigned, SignatureInvalid, SignatureUntrusted, KeyRevoked: The trust policy does not let it pass.
        EdgeloraError: What the reader of a manifest finds.
    """
    with open_bundle(path) as bundle:
        policy = policy or read_policy()
        judge_index(bundle, policy, required=require_signature)
        pairs = [(adapter, bundle.manifest(adapter)) for adapter in bundle.index.adapters]
        all_blobs_are_named(bundle, [manifest for _, manifest in pairs])
        judge_adapters(bundle, pairs, policy)
        store = open_store(to)
        _refuse_too_big(bundle, pairs, store)
        copied = sum(import_base(bundle, base) for base in bundle.index.bases)
        # The order of a publisher's releases; a store takes them in no other.
        pairs.sort(key=lambda pair: (pair[0].reference.adapter, pair[1].identity.release_sequence))
        for adapter, manifest in pairs:
            copied += _put(bundle, adapter, manifest, store)
        snapshots = [_publish(adapter, manifest, store, bundle) for adapter, manifest in pairs]
    names = [str(adapter.reference) for adapter, _ in pairs]
    return Imported(
        store=store.address,
        adapters=tuple(names),
        reused=tuple(name for name, snapshot in zip(names, snapshots, strict=True) if snapshot.reused),
        bases=tuple(base.tensors_digest for base in bundle.index.bases),
        copied_bytes=copied,
    )


def _files(bundle: Bundle, adapter: BundledAdapter, manifest: Manifest) -> tuple[StoredFile, ...]:
    own = StoredFile(MANIFEST_NAME, adapter.manifest.size, adapter.manifest.sha256)
    return (*bundle.files(adapter, manifest), own)


def _put(bundle: Bundle, adapter: BundledAdapter, manifest: Manifest, store: Store) -> int:
    """Put every file of a version; how many bytes were not there before."""
    copied = 0
    for file in _files(bundle, adapter, manifest):
        with bundle.open(file) as source:
            copied += file.size if store.put_file(source, file) else 0
    return copied


def _publish(adapter: BundledAdapter, manifest: Manifest, store: Store, bundle: Bundle) -> Snapshot:
    reference = adapter.reference
    files = _files(bundle, adapter, manifest)
    sequence = manifest.identity.release_sequence
    for attempt in range(1, _ATTEMPTS + 1):
        head = store.head(adapter.namespace, adapter.name)
        try:
            snapshot = store.publish(Publication(reference, files, head, sequence, f"bundle {reference}"))
            break
        except PublishRaced:
            if store.release_sequence(adapter.namespace, adapter.name) >= sequence:
                raise _later_is_there(adapter, store) from None
            if attempt == _ATTEMPTS:
                raise
    if adapter.yanked and snapshot.yanked is None:
        store.yank(reference, adapter.yanked)
    return snapshot


def _later_is_there(adapter: BundledAdapter, store: Store) -> Rollback:
    return Rollback(
        f"{store.address} holds a later release of {adapter.reference.adapter} than {adapter.version}, "
        "and publishes its releases in their order only",
        fix="import a bundle of the newest release, or this one into another store with --to",
    )


def _refuse_too_big(bundle: Bundle, pairs: Sequence[tuple[BundledAdapter, Manifest]], store: Store) -> None:
    files = {file for adapter, manifest in pairs for file in _files(bundle, adapter, manifest)}
    if isinstance(store, DirectoryStore):
        _require(store.root, sum(_missing_bytes(store, file) for file in files))
    _require(home(), sum(missing_base_bytes(base) for base in bundle.index.bases))


def _missing_bytes(store: DirectoryStore, file: StoredFile) -> int:
    return 0 if (store.root / blob_path(file.sha256)).is_file() else file.size


def _require(folder: Path, needed: int) -> None:
    place = next(each for each in (folder, *folder.parents) if each.is_dir())
    free = shutil.disk_usage(place).free
    if needed + _SPARE_BYTES > free and needed:
        raise DiskFull(
            f"{folder} needs {needed} bytes, and {free} are free on its disk",
            fix="free space, or import into a store on another disk with --to",
        )
