"""What a pull asks before it fetches a file: who signed, whether it is the latest, whether it still holds."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import datetime

from edgelora.errors import DigestMismatch, Expired
from edgelora.freshness.pinned import check_listed
from edgelora.manifest import SIGNATURE_NAME, Manifest
from edgelora.signing.envelope import MAX_ENVELOPE_BYTES
from edgelora.signing.judge import Judgement, judge
from edgelora.signing.policy import TrustPolicy
from edgelora.signing.signer import name_of
from edgelora.store import Reference, Snapshot, Store
from edgelora.transfer.clock import (
    clock_hint,
    current_time,
    note_time,
    parse_moment,
    refuse_future,
    system_time,
)
from edgelora.transfer.releases import Release, names_one, refuse_old, release_of, remember


@dataclass(frozen=True, slots=True)
class Provenance:
    """Where a release is from, once nothing speaks against it."""

    signature: bytes | None
    """The bytes of its signature file."""
    judgement: Judgement
    release: Release
    remarks: tuple[str, ...]
    """What a person should know of it."""

    def remember(self, manifest: Manifest) -> None:
        """Note the release before it is fetched: a fetch that breaks off must not make it forgotten."""
        remember(self.release)
        if self.judgement.is_trusted:
            note_time(manifest.identity.namespace, manifest.identity.created_at)


def examine(
    wanted: Reference, store: Store, snapshot: Snapshot, manifest: Manifest, data: bytes, policy: TrustPolicy
) -> Provenance:
    """Decide whether a release may be fetched, from its manifest and its signature file alone.

    Args:
        wanted: What the user asked for.
        store: Where it is.
        snapshot: The version, pinned.
        manifest: Its manifest.
        data: The bytes of the manifest.
        policy: Whose signatures count.

    Raises:
        EdgeloraError: What `judge`, `check_listed` and `refuse_old` find.
        Expired: The publisher gave it a date, and that is past.
        CreatedInFuture: Trusted keys signed a date that is yet to come.
        DigestMismatch: The store holds another signature file than it lists.
    """
    where = name_of(manifest.identity)
    signature = read_signature(store, snapshot)
    judgement = judge(data, signature, identity=manifest.identity, policy=policy, where=where)
    issuer = None if judgement.is_trusted else store.address
    release = release_of(manifest, data, issuer=issuer, by_name=names_one(wanted))
    check_listed(wanted, store, snapshot, manifest)
    older = refuse_old(release, wanted, store)
    namespace = manifest.identity.namespace
    ignores_dates = wanted.digest is not None or (
        policy.rule_for(namespace, manifest.identity.name).ignore_expiry
    )
    if judgement.is_trusted and not ignores_dates:
        refuse_future(manifest.identity.created_at, system_time(), where)
    expired = refuse_expired(
        manifest, current_time(namespace), allowed=ignores_dates, hint=clock_hint(namespace)
    )
    strangers = [
        f"{where} is signed by {signer.name or signer.fingerprint}, a key you do not trust for it"
        for signer in judgement.signers
        if signer.standing in ("known", "unknown")
    ]
    remarks = [remark for remark in (older, expired, *strangers) if remark]
    return Provenance(signature, judgement, release, tuple(remarks))


def read_signature(store: Store, snapshot: Snapshot) -> bytes | None:
    """The signature file of a published version; None where it has none.

    Raises:
        DigestMismatch: It is not what the store lists.
    """
    file = next((file for file in snapshot.files if file.path == SIGNATURE_NAME), None)
    if file is None:
        return None
    data = b""
    if file.size <= MAX_ENVELOPE_BYTES:
        with store.open_file(snapshot, SIGNATURE_NAME) as source:
            while len(data) <= file.size and (piece := source.read(file.size + 1 - len(data))):
                data += piece
    if len(data) != file.size or hashlib.sha256(data).hexdigest() != file.sha256:
        raise DigestMismatch(
            f"{SIGNATURE_NAME} of {snapshot.reference} in {store.address} is not the file the store lists",
            fix="publish the adapter there again, or pull from another store",
        )
    return data


def refuse_expired(manifest: Manifest, now: datetime, *, allowed: bool, hint: str = "") -> str | None:
    """Refuse a release that is past its date; what to say of one that may be, and is.

    Args:
        manifest: Of the release.
        now: When it is asked for.
        allowed: It may be past its date.
        hint: For the end of the fix.

    Raises:
        Expired: It is, and may not be.
    """
    if manifest.expires is None or parse_moment(manifest.expires) > now:
        return None
    told = f"{name_of(manifest.identity)} expired at {manifest.expires}"
    if not allowed:
        raise Expired(
            f"{told}, so a newer release may be held back",
            fix="pull a newer release, or name this one by its digest: "
            f"{manifest.identity.namespace}/{manifest.identity.name}@sha256:…{hint}",
        )
    return told
