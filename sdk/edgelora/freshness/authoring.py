"""Making a mirror's metadata: an offline root, a delegation for each namespace, and a date that is renewed.

Every function writes new files under new numbers first and ``timestamp.json`` last: until then, readers see
the state before.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from tuf.api.metadata import (
    DelegatedRole,
    Delegations,
    Metadata,
    MetaFile,
    Root,
    Snapshot,
    TargetFile,
    Targets,
    Timestamp,
)

from edgelora.errors import MissingFile, StoreError, TrustPolicyError
from edgelora.files import atomic_write, exclusive_lock
from edgelora.freshness.client import FOLDER, read_listing, role_of
from edgelora.freshness.listing import compare_listings, list_releases
from edgelora.freshness.pinned import states_of
from edgelora.freshness.role_signatures import check_signed, sign_role, tuf_key
from edgelora.signing import PrivateKey, PublicKey, TrustPolicy, read_policy
from edgelora.store import DirectoryStore

ROOT_DAYS = 365
FRESH_DAYS = 60


@dataclass(frozen=True, slots=True)
class Written:
    """The metadata of a mirror after a change."""

    folder: Path
    timestamp: int
    """Its number; it grows with every change."""
    expires: str
    """Until when readers take it as current."""
    releases: int = 0
    """Listed in the namespace that was published."""
    changes: tuple[str, ...] = ()
    """How they differ from those listed before, for the owner to read."""


class Statements:
    """The metadata of one mirror, and the key that states what is current.

    Args:
        store: The mirror.
        online: The key of ``snapshot`` and ``timestamp``; it is used at every change and renewal.
        days: How long a statement holds.
    """

    def __init__(self, store: DirectoryStore, online: PrivateKey, *, days: int = FRESH_DAYS) -> None:
        store.check_layout()
        self._store = store
        self._folder = store.root / FOLDER
        self._online = online
        self._days = days

    def init(self, root: Sequence[PrivateKey], *, threshold: int) -> Written:
        """Make the first root and an empty list of namespaces, both signed by the offline keys.

        Raises:
            StoreError: The mirror has metadata already.
            TrustPolicyError: The threshold cannot be met.
        """
        with self._locked():
            if (self._folder / "timestamp.json").exists():
                raise StoreError(
                    f"{self._store.address} has signed metadata already",
                    fix="delegate namespaces in it, or move its folder tuf away first",
                )
            signed = self._root([key.public for key in root], threshold, version=1)
            self._write(Metadata(signed), Root.type, root)
            self._write(Metadata(Targets(expires=_in(ROOT_DAYS))), Targets.type, root)
            return self._state({"targets.json": self._meta(Targets.type, 1)})

    def rotate(self, keys: Sequence[PublicKey], signers: Sequence[PrivateKey], *, threshold: int) -> Written:
        """Make the next root: other keys, another threshold, this online key, or just another year.

        Readers follow from the root they pinned to this one.

        Args:
            keys: Of the root from now on.
            signers: Enough of the root's keys before, and enough of these.
            threshold: How many of ``keys`` must sign from now on.

        Raises:
            MissingFile: The mirror has no metadata.
            SignatureUntrusted: Too few of the keys before, or of these, sign. Nothing is changed.
            TrustPolicyError: The threshold cannot be met.
        """
        with self._locked():
            before = self._read(Root.type, Root).signed
            root = Metadata(self._root(keys, threshold, version=before.version + 1))
            targets = self._read(Targets.type, Targets)
            targets.signed.version += 1
            targets.signed.expires = _in(ROOT_DAYS)
            for metadata, delegators in ((root, (before, root.signed)), (targets, (root.signed,))):
                sign_role(metadata, signers)
                for delegator in delegators:
                    check_signed(delegator, metadata.signed.type, metadata)
            meta = dict(self._read(Snapshot.type, Snapshot).signed.meta)
            # A reader sees the new root at once: what it must sign is there before, and the rest right after.
            self._write(targets, Targets.type, signers)
            meta["targets.json"] = self._meta(Targets.type, targets.signed.version)
            self._write(root, Root.type, signers)
            return self._state(meta)

    def delegate(
        self, namespace: str, keys: Sequence[PublicKey], root: Sequence[PrivateKey], *, threshold: int = 1
    ) -> Written:
        """Let these keys, and no others, list the releases of a namespace.

        Raises:
            MissingFile: The mirror has no metadata.
            SignatureUntrusted: Too few of the root's keys sign.
            TrustPolicyError: The threshold cannot be met.
        """
        if not 1 <= threshold <= len(keys):
            raise TrustPolicyError(
                f"{threshold} of {len(keys)} keys of {namespace} cannot sign", fix="name more keys"
            )
        with self._locked():
            targets = self._read(Targets.type, Targets)
            mine = {key.fingerprint.removeprefix("sha256:"): tuf_key(key) for key in keys}
            role = DelegatedRole(role_of(namespace), list(mine), threshold, True, [f"{namespace}/*/*"])
            known = targets.signed.delegations or Delegations({}, {})
            targets.signed.delegations = Delegations(
                {**known.keys, **mine}, {**(known.roles or {}), role.name: role}
            )
            targets.signed.version += 1
            targets.signed.expires = _in(ROOT_DAYS)
            self._write(targets, Targets.type, root)
            check_signed(self._read(Root.type, Root).signed, Targets.type, targets)
            meta = dict(self._read(Snapshot.type, Snapshot).signed.meta)
            meta["targets.json"] = self._meta(Targets.type, targets.signed.version)
            return self._state(meta)

    def publish(
        self,
        namespace: str,
        signers: Sequence[PrivateKey],
        *,
        accepted: Collection[str] = (),
        policy: TrustPolicy | None = None,
    ) -> Written:
        """List what the mirror holds of a namespace now: every version, its number, and whether it is yanked.

        What was listed before must still be there as it was, and what is new must meet the trust policy. What
        was listed is held against the root, if one is pinned on this machine.

        Args:
            namespace: To list.
            signers: Enough of the keys it was delegated to.
            accepted: ``ns/name@version`` of what was removed, replaced or unyanked on purpose.
            policy: Whose signatures count; None reads the policy in force.

        Raises:
            MixAndMatch: A version that was listed is gone, is another release, or is not yanked any more.
            EdgeloraError: What `edgelora.signing.judge` finds of a release that is new.
            MissingFile: The mirror has no metadata.
            StoreError: The namespace was delegated to nobody.
            SignatureUntrusted: Too few of the keys it was delegated to sign.
        """
        with self._locked():
            targets = self._read(Targets.type, Targets)
            roles = (targets.signed.delegations or Delegations({}, {})).roles or {}
            role = role_of(namespace)
            if role not in roles:
                raise StoreError(
                    f"the metadata of {self._store.address} delegates {namespace} to nobody",
                    fix=f"edgelora tuf delegate STORE {namespace} --key NAME --root NAME --online NAME",
                )
            meta = dict(self._read(Snapshot.type, Snapshot).signed.meta)
            before = meta.get(f"{role}.json")
            listed = self._listed(targets.signed, namespace) if before else {}
            signed = Targets(version=before.version + 1 if before else 1, expires=_in(ROOT_DAYS))
            signed.targets = list_releases(self._store, namespace, listed, policy or read_policy())
            changes = compare_listings(listed, signed.targets, accepted, self._store.address)
            release = Metadata(signed)
            self._write(release, role, signers)
            check_signed(targets.signed, role, release)
            meta[f"{role}.json"] = self._meta(role, signed.version)
            written = self._state(meta)
            return replace(written, releases=len(signed.targets), changes=tuple(changes))

    def refresh(self) -> Written:
        """State again that what was published is current.

        Raises:
            MissingFile: The mirror has no metadata.
        """
        with self._locked():
            return self._state(dict(self._read(Snapshot.type, Snapshot).signed.meta))

    def _root(self, keys: Sequence[PublicKey], threshold: int, *, version: int) -> Root:
        if not 1 <= threshold <= len(keys):
            raise TrustPolicyError(
                f"{threshold} of {len(keys)} root keys cannot sign", fix="name as many keys as must sign"
            )
        root = Root(version=version, expires=_in(ROOT_DAYS), consistent_snapshot=True)
        for role in (Root.type, Targets.type):
            for key in keys:
                root.add_key(tuf_key(key), role)
            root.roles[role].threshold = threshold
        for role in (Snapshot.type, Timestamp.type):
            root.add_key(tuf_key(self._online.public), role)
        return root

    def _listed(self, targets: Targets, namespace: str) -> dict[str, TargetFile]:
        for state in states_of(self._store.address, namespace):
            read_listing(self._store, namespace, state)
        role = role_of(namespace)
        listed = self._read(role, Targets)
        check_signed(targets, role, listed)
        return dict(listed.signed.targets)

    def _state(self, meta: dict[str, MetaFile]) -> Written:
        """Write the next snapshot of these parts, and the timestamp that makes it the current one."""
        before = self._number()
        snapshot = Snapshot(version=before + 1, expires=_in(self._days), meta=meta)
        self._write(Metadata(snapshot), Snapshot.type, [self._online])
        pinned = self._meta(Snapshot.type, snapshot.version)
        timestamp = Timestamp(version=before + 1, expires=_in(self._days), snapshot_meta=pinned)
        signed = Metadata(timestamp)
        sign_role(signed, [self._online])
        check_signed(self._read(Root.type, Root).signed, Timestamp.type, signed)
        atomic_write(self._folder / "timestamp.json", signed.to_bytes())
        return Written(self._folder, timestamp.version, f"{timestamp.expires:%Y-%m-%dT%H:%M:%SZ}")

    def _number(self) -> int:
        path = self._folder / "timestamp.json"
        return Metadata[Timestamp].from_file(str(path)).signed.version if path.exists() else 0

    def _write(self, metadata: Metadata[Any], role: str, signers: Sequence[PrivateKey]) -> None:
        sign_role(metadata, signers)
        atomic_write(self._folder / f"{metadata.signed.version}.{role}.json", metadata.to_bytes())

    def _meta(self, role: str, version: int) -> MetaFile:
        """With length and digest: parts of other states do not fit."""
        data = (self._folder / f"{version}.{role}.json").read_bytes()
        return MetaFile.from_data(version, data, ["sha256"])

    def _read(self, role: str, kind: type[Any]) -> Metadata[Any]:
        if role == Root.type:
            numbers = [int(path.name.split(".")[0]) for path in self._folder.glob("*.root.json")]
            version = max(numbers, default=0)
        elif role == Snapshot.type:
            version = self._number()
        else:
            version = self._read(Snapshot.type, Snapshot).signed.meta[f"{role}.json"].version
        path = self._folder / f"{version}.{role}.json"
        if not path.is_file():
            raise MissingFile(
                f"{self._store.address} has no signed metadata",
                fix="make it: edgelora tuf init STORE --root NAME --online NAME",
            )
        return Metadata[kind].from_file(str(path))  # type: ignore[valid-type]

    def _locked(self) -> AbstractContextManager[None]:
        return exclusive_lock(self._store.root / "locks" / "tuf.lock")


def _in(days: int) -> datetime:
    return datetime.now(UTC).replace(microsecond=0) + timedelta(days=days)
