"""Fetching an adapter: the manifest first, the files beside the target, verified, then one rename."""

from __future__ import annotations

import hashlib
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from edgelora.errors import (
    DigestMismatch,
    DiskFull,
    EdgeloraError,
    FileSetMismatch,
    OfflineNotCached,
    StoreUnreachable,
    TargetExists,
    UnsafeFile,
)
from edgelora.files import atomic_write, disk_full_is_an_error, publish_directory, require_space
from edgelora.manifest import (
    MANIFEST_NAME,
    SIGNATURE_NAME,
    Manifest,
    is_unlisted,
    read_manifest,
)
from edgelora.manifest.pickles import reason_to_refuse
from edgelora.manifest.tree import walk
from edgelora.signing.judge import Signer
from edgelora.signing.policy import TrustPolicy, read_policy
from edgelora.signing.signer import read_signature_file
from edgelora.store import Reference, Snapshot, Store, is_version, open_store, parse_reference
from edgelora.transfer.cosigning import merged_signatures
from edgelora.transfer.fetching import OnProgress, fetch_files, is_remote, keep_fetched, take_cached
from edgelora.transfer.following import find_offer, follow_channel
from edgelora.transfer.provenance import examine
from edgelora.transfer.pushing import store_named
from edgelora.transfer.shelf import (
    Note,
    lock_folder,
    manifest_digest,
    may_replace,
    place_of,
    staging_of,
    write_note,
)
from edgelora.transfer.staging import Staging
from edgelora.transfer.yanking import noting_yanks, refuse_yanked, yanked_here
from edgelora.verify import check

_SPARE_BYTES = 2**20


@dataclass(frozen=True, slots=True)
class Pulled:
    """An adapter on this machine."""

    folder: Path
    manifest: Manifest
    reused: bool
    """It was there already, and sound."""
    reference: str
    """With the version."""
    store: str
    fetched_bytes: int
    signers: tuple[Signer, ...]
    """Who signed it."""
    remarks: tuple[str, ...]
    """What a person should know: that it is old, expired, or signed by strangers."""
    yanked: str | None
    """Why its publisher withdrew it, where it was pulled all the same."""
    yanked_here: dict[str, str]
    """Other versions on this machine that were withdrawn since, with the reasons."""


def pull(
    reference: str,
    source: str | None = None,
    into: Path | None = None,
    *,
    allow_yanked: bool = False,
    channel: str | None = None,
    on_progress: OnProgress | None = None,
    policy: TrustPolicy | None = None,
) -> Pulled:
    """Fetch an adapter, all of it or nothing.

    First the manifest and its signature file: before anything else is fetched, the trust policy, the releases
    that were seen before and the release's own date must let it pass. What passed is remembered at once.

    Files are hashed while they are written to a folder beside the target; the folder is verified as a whole
    and then renamed. A pull that was interrupted is continued by the next one, to the byte.

    Args:
        reference: Which adapter; without a version, the latest release.
        source: A store's name or address, instead of the one in the reference or the default store.
        into: The folder to make; by default one below ``home()``.
        allow_yanked: Take a version that its publisher withdrew.
        channel: Take a release of this channel only, and follow it from now on; None goes on with the channel
            chosen last, or ``stable``.
        on_progress: Told from time to time how far it is, in whatever thread is fetching.
        policy: Whose signatures count; None reads the policy in force.

    Raises:
        AdapterNotFound: The store does not hold it; says what it holds.
        Yanked: Its publisher withdrew it, and says why.
        Unsigned, SignatureInvalid, SignatureUntrusted, KeyRevoked, ChannelRefused: The policy is not met.
        ChannelRefused: There is no release of the channel that is followed, either.
        Rollback, Equivocation, Expired, CreatedInFuture: It is not the latest release, or cannot be.
        DigestMismatch: Bytes are not what the manifest says, or it is not the manifest asked for; nothing
            is kept.
        TargetExists: ``into`` holds something that was not pulled.
        DiskFull: No space is left.
        StoreUnreachable: A remote store broke off; the next pull goes on from there.
        OfflineNotCached: The network is forbidden, and not everything is in the cache.
    """
    wanted = parse_reference(reference)
    store = open_store(store_named(wanted, source))
    policy = policy or read_policy()
    with noting_yanks(store, wanted):
        offer = find_offer(wanted, store, policy, channel)
    snapshot, data, manifest = offer.snapshot, offer.data, offer.manifest
    _refuse_other(wanted, manifest, data)
    _refuse_mixed(snapshot, manifest, data)
    _refuse_pickles(manifest)
    # From the manifest that was compared with what was asked for: a store's own words name no folder.
    pinned = wanted.at(manifest.identity.version)
    target = Path(os.path.abspath(into)) if into else place_of(pinned)
    refuse_yanked(snapshot, target, allowed=allow_yanked)
    provenance = examine(wanted, store, snapshot, manifest, data, policy)
    # Before anything is fetched: a pull that dies here must not let an older release pass afterwards.
    provenance.remember(manifest)
    if channel is not None:
        follow_channel(wanted, channel)
    with lock_folder(target):
        signatures = merged_signatures(
            target, data, provenance.signature, judgement=provenance.judgement, policy=policy
        )
        fetched = 0
        is_there = _is_sound(target, snapshot)
        if not is_there:
            _refuse_foreign(target)
            with disk_full_is_an_error(target):
                fetched = _fetch(store, snapshot, manifest, _unlisted(data, signatures), target, on_progress)
        elif signatures not in (None, read_signature_file(target)):
            atomic_write(target / SIGNATURE_NAME, signatures)
        write_note(
            Note(
                folder=str(target),
                reference=str(pinned),
                store=store.address,
                commit=snapshot.commit,
                manifest_digest=f"sha256:{snapshot.manifest.sha256}",
            )
        )
        shutil.rmtree(staging_of(target), ignore_errors=True)
    return Pulled(
        folder=target,
        manifest=manifest,
        reused=is_there,
        reference=str(pinned),
        store=store.address,
        fetched_bytes=fetched,
        signers=provenance.judgement.signers,
        remarks=provenance.remarks,
        yanked=snapshot.yanked,
        yanked_here=yanked_here(store, pinned),
    )


def _fetch(
    store: Store,
    snapshot: Snapshot,
    manifest: Manifest,
    unlisted: dict[str, bytes],
    target: Path,
    on_progress: OnProgress | None,
) -> int:
    staging = Staging(staging_of(target), manifest.files)
    try:
        if is_remote(store):
            take_cached(staging)
        needed_bytes = sum(entry.size for entry in staging.missing()) + _SPARE_BYTES
        require_space(
            target, needed_bytes, fix="free space, or pull into a folder on another disk with --into"
        )
        count = fetch_files(store, snapshot, staging, on_progress)
        for path, data in unlisted.items():
            atomic_write(staging.adapter / path, data)
        check(staging.adapter)
        if is_remote(store):
            keep_fetched(store, snapshot, staging)
    except (DiskFull, StoreUnreachable, OfflineNotCached):
        # The next pull goes on from here.
        raise
    except EdgeloraError:
        staging.discard()
        raise
    publish_directory(staging.adapter, target)
    return count


def _unlisted(manifest: bytes, signature: bytes | None) -> dict[str, bytes]:
    """The files that no manifest lists, by name."""
    return {MANIFEST_NAME: manifest} | ({} if signature is None else {SIGNATURE_NAME: signature})


def _is_sound(target: Path, snapshot: Snapshot) -> bool:
    if manifest_digest(target) != f"sha256:{snapshot.manifest.sha256}":
        return False
    try:
        check(target)
    except EdgeloraError:
        return False
    return True


def _refuse_other(wanted: Reference, manifest: Manifest, data: bytes) -> None:
    """The manifest must be the one the user asked for, whatever the store says it is."""
    identity = manifest.identity
    found = f"{identity.namespace}/{identity.name}@{identity.version}"
    sha256 = hashlib.sha256(data).hexdigest()
    fix = "pull from another store: this one mixes adapters up"
    pins_version = wanted.version is not None and is_version(wanted.version)
    if found != f"{wanted.adapter}@{wanted.version if pins_version else identity.version}":
        raise DigestMismatch(f"the store answers {wanted} with the manifest of {found}", fix=fix)
    if wanted.digest not in (None, f"sha256:{sha256}"):
        raise DigestMismatch(f"the store answers {wanted} with a manifest of the sha256 {sha256}", fix=fix)


def _refuse_mixed(snapshot: Snapshot, manifest: Manifest, data: bytes) -> None:
    """The manifest must be the one the store pinned, and about the files published."""
    identity = manifest.identity
    named = f"{identity.namespace}/{identity.name}@{identity.version}"
    asked = f"{snapshot.reference.adapter}@{snapshot.reference.version}"
    fix = "pull from another store: this one mixes adapters up"
    if hashlib.sha256(data).hexdigest() != snapshot.manifest.sha256:
        raise DigestMismatch(f"the manifest of {asked} changed while it was read", fix="pull again")
    if named != asked:
        raise DigestMismatch(f"the store answers {asked} with the manifest of {named}", fix=fix)
    published = {file.path: (file.size, file.sha256) for file in snapshot.files}
    listed = {entry.path: (entry.size, entry.sha256) for entry in manifest.files}
    unlisted = {path for path in published.keys() - listed.keys() if not is_unlisted(path)}
    if unlisted or listed.keys() - published.keys():
        paths = ", ".join(sorted(unlisted | (listed.keys() - published.keys())))
        raise FileSetMismatch(f"the store and the manifest of {asked} disagree about {paths}", fix=fix)
    for path, described in listed.items():
        if published[path] != described:
            raise DigestMismatch(
                f"the store holds another {path} (blob {published[path][1]}) than the manifest of {asked} "
                f"names ({described[1]})",
                fix=fix,
            )


def _refuse_pickles(manifest: Manifest) -> None:
    for entry in manifest.files:
        reason = reason_to_refuse(entry.path, b"")
        if reason:
            raise UnsafeFile(
                f"{entry.path} is refused before it is fetched: {reason}",
                fix="ask the publisher for safetensors",
            )


def _refuse_foreign(target: Path) -> None:
    if os.path.lexists(target) and (target.is_symlink() or not target.is_dir()):
        raise TargetExists(
            f"{target} is not a folder, so nothing is pulled there", fix="name another folder with --into"
        )
    if target.is_dir() and any(target.iterdir()) and not may_replace(target):
        raise TargetExists(
            f"{target} holds something that was not pulled, or was changed since",
            fix="name another folder with --into, or remove this one first",
        )
    if added := _added_files(target):
        raise TargetExists(
            f"{target} holds {added[0]}, which was not pulled: replacing the adapter would delete it",
            fix="move what you added out of the folder, or name another one with --into",
        )


def _added_files(target: Path) -> list[str]:
    """Files in a pulled adapter that its manifest does not list; none where it has no readable manifest."""
    try:
        listed = {entry.path for entry in read_manifest(target / MANIFEST_NAME).files}
    except EdgeloraError:
        return []
    return [path for path, _ in walk(target) if path not in listed and not is_unlisted(path)]
