"""Importing a bundle: everything is checked before anything is published, and what was done is kept."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from edgelora.bundles.base_import import missing_base_bytes, staged_base
from edgelora.bundles.publishing import VersionImport, refuse_conflicts
from edgelora.bundles.reading import Bundle, all_blobs_are_named, open_bundle
from edgelora.bundles.trust import judge_adapters, judge_index, may_yank
from edgelora.files import require_space
from edgelora.locations import home
from edgelora.signing import TrustPolicy, read_policy
from edgelora.store import DirectoryStore, Store, StoredFile, open_store
from edgelora.store.blobs import blob_path

_SPARE_BYTES = 2**20


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
    yanks_ignored: dict[str, str]
    """Versions that the bundle calls withdrawn, on nobody's word that counts here, with its reasons."""


def import_bundle(
    path: Path, to: str | None = None, *, policy: TrustPolicy | None = None, require_signature: bool = False
) -> Imported:
    """Bring what a bundle holds into a store, and its bases onto this machine.

    Nothing is published before the whole index, every manifest and every file was checked, and nothing in
    the store or on this machine speaks against any of it. An import that was interrupted is continued by the
    next one: files that are there are not copied again.

    Args:
        path: The bundle.
        to: A store's name or address; None is the default store.
        policy: Whose signatures count; None reads the policy in force. Adapters are judged as by a pull.
        require_signature: Refuse a bundle whose index too few trusted keys signed, whatever the policy says.

    Raises:
        BundleError: It is no bundle, or is cut off.
        DigestMismatch: Content differs from what the index or a manifest says.
        FileSetMismatch: A file is missing, or one belongs to nothing.
        VersionExists: The store holds a version with other content.
        Rollback: The store holds a later release, and not this one.
        TargetExists: A base is on this machine with other files beside its weights.
        DiskFull: No space is left.
        Unsigned, SignatureInvalid, SignatureUntrusted, KeyRevoked: The trust policy does not let it pass.
        EdgeloraError: What the reader of a manifest finds.
    """
    with open_bundle(path) as bundle, ExitStack() as held:
        policy = policy or read_policy()
        judge_index(bundle, policy, required=require_signature)
        pairs = [(adapter, bundle.manifest(adapter)) for adapter in bundle.index.adapters]
        all_blobs_are_named(bundle, [manifest for _, manifest in pairs])
        judge_adapters(bundle, pairs, policy)
        store = open_store(to)
        # The order of a publisher's releases; a store takes them in no other.
        pairs.sort(key=lambda pair: (pair[0].reference.adapter, pair[1].identity.release_sequence))
        versions = [VersionImport(bundle, adapter, manifest, store) for adapter, manifest in pairs]
        _refuse_too_big(bundle, versions, store)
        refuse_conflicts(versions)
        copied = sum(version.put() for version in versions)
        bases = [held.enter_context(staged_base(bundle, base)) for base in bundle.index.bases]
        for base in bases:
            base.publish()
        arrived = [version.publish() for version in versions]
        ignored = {}
        for adapter, arrival in zip([adapter for adapter, _ in pairs], arrived, strict=True):
            if adapter.yanked and arrival.snapshot.yanked is None:
                if may_yank(bundle, adapter, policy, is_new=arrival.is_new):
                    store.yank(adapter.reference, adapter.yanked)
                else:
                    ignored[str(adapter.reference)] = adapter.yanked
    names = [str(adapter.reference) for adapter, _ in pairs]
    return Imported(
        store=store.address,
        adapters=tuple(names),
        reused=tuple(name for name, each in zip(names, arrived, strict=True) if each.snapshot.reused),
        bases=tuple(base.tensors_digest for base in bundle.index.bases),
        copied_bytes=copied + sum(base.copied_bytes for base in bases),
        yanks_ignored=ignored,
    )


def _refuse_too_big(bundle: Bundle, versions: Sequence[VersionImport], store: Store) -> None:
    fix = "free space, or import into a store on another disk with --to"
    files = {file for version in versions for file in version.files}
    if isinstance(store, DirectoryStore):
        missing = sum(_missing_bytes(store, file) for file in files)
        require_space(store.root, missing and missing + _SPARE_BYTES, fix=fix)
    missing = sum(missing_base_bytes(base) for base in bundle.index.bases)
    require_space(home(), missing and missing + _SPARE_BYTES, fix=fix)


def _missing_bytes(store: DirectoryStore, file: StoredFile) -> int:
    return 0 if (store.root / blob_path(file.sha256)).is_file() else file.size
