"""Which releases this machine has seen, so that an old one is never taken for the latest.

Kept beside the adapters and never inside one: removing an adapter, or pulling it again, forgets nothing. Of
each adapter and channel two releases are remembered: the highest number that was taken as the latest, and the
highest version that was asked for by name. Both once for releases that trusted keys signed, and once for each
store, which numbers the releases that nobody signed.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from edgelora.confined import read_regular
from edgelora.errors import EdgeloraError, Equivocation, MissingFile, Rollback, StoreError
from edgelora.files import atomic_write, exclusive_lock
from edgelora.locations import home
from edgelora.manifest import Manifest
from edgelora.signing.judge import channel_of
from edgelora.store import Reference, Store, is_version, parse_version, real_address

_MAX_BYTES = 4096
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_SIGNED = "signed"


@dataclass(frozen=True, slots=True)
class Release:
    """A release of one adapter and channel, as it is offered or was seen."""

    adapter: str
    channel: str
    issuer: str
    """``signed``, or the address of the store that numbered it."""
    version: str
    release_sequence: int
    manifest_digest: str
    by_name: bool = False
    """It was asked for by version, digest or commit, so it says little about which one is the latest."""


def release_of(
    manifest: Manifest, data: bytes, *, issuer: str | None = None, by_name: bool = False
) -> Release:
    """What a manifest says of itself.

    Args:
        manifest: The manifest.
        data: Its bytes.
        issuer: The address of the store that numbered it; None for one that trusted keys signed.
        by_name: It was asked for by version, digest or commit.
    """
    identity = manifest.identity
    return Release(
        adapter=f"{identity.namespace}/{identity.name}",
        channel=channel_of(identity),
        issuer=real_address(issuer) if issuer else _SIGNED,
        version=identity.version,
        release_sequence=identity.release_sequence,
        manifest_digest=f"sha256:{hashlib.sha256(data).hexdigest()}",
        by_name=by_name,
    )


def names_one(reference: Reference) -> bool:
    """Whether a reference names one release: by its version, its digest or its commit."""
    named = reference.version or ""
    return bool(reference.digest) or is_version(named) or _COMMIT.fullmatch(named) is not None


def refuse_old(release: Release, wanted: Reference, store: Store) -> str | None:
    """Refuse a release that is older than one that was seen; what to say of one that was asked for by name.

    Raises:
        Rollback: It is older, and the reference names neither a version nor a digest.
        Equivocation: Its number was seen with other content, whatever the reference names.
        StoreError: What was remembered cannot be read.
    """
    remarks = []
    for issuer in (_SIGNED, real_address(store.address)):
        for seen in filter(None, (_read(_path(release, issuer, by_name)) for by_name in (False, True))):
            may_be_older = release.by_name or _withdrew(store, wanted, seen)
            remarks.append(compare_releases(release, seen, may_be_older=may_be_older, forget=_forget(seen)))
    return next((remark for remark in remarks if remark), None)


def compare_releases(release: Release, seen: Release, *, may_be_older: bool, forget: str = "") -> str | None:
    """Hold a release against one that was seen; what to say of one that may be older, and is.

    Held against a release that was taken as the latest, a lower number is older. Held against one that was
    asked for by name, a lower number and a lower version: a fix of an old version may have been released
    after the latest one.

    Args:
        release: What is offered.
        seen: Of the same adapter and channel.
        may_be_older: It was asked for by its version or digest.
        forget: How to forget what was seen, at the end of a fix.

    Raises:
        Rollback: It is older.
        Equivocation: It has the same number and other content.
    """
    if release.release_sequence == seen.release_sequence:
        if release.manifest_digest == seen.manifest_digest:
            return None
        raise Equivocation(
            f"{release.adapter}@{release.version} is offered as release {release.release_sequence} of the "
            f"channel {release.channel}, and that release was {seen.version} ({seen.manifest_digest}) "
            f"before, not {release.manifest_digest}",
            fix=f"ask its publisher which one is right, and pull neither until then{forget}",
        )
    if release.release_sequence > seen.release_sequence or (seen.by_name and not _is_lower(release, seen)):
        return None
    if not may_be_older:
        raise Rollback(
            f"{release.adapter}@{release.version}, release {release.release_sequence}, is offered as the "
            f"latest of the channel {release.channel}, and release {seen.release_sequence} ({seen.version}) "
            "was seen before",
            fix=f"name the older version if you want it: {release.adapter}@{release.version}{forget}",
        )
    return (
        f"{release.adapter}@{release.version} is release {release.release_sequence}; "
        f"release {seen.release_sequence} ({seen.version}) was seen before"
    )


def remember(release: Release) -> None:
    """Note a release that may be fetched, before it is; durable when this returns."""
    path = _path(release, release.issuer, release.by_name)
    with exclusive_lock(path.with_suffix(".lock")):
        seen = _read(path)
        if seen is None or _counts_more(release, seen):
            atomic_write(path, (json.dumps(asdict(release), sort_keys=True, indent=1) + "\n").encode())


def _counts_more(release: Release, seen: Release) -> bool:
    if release.by_name:
        return _is_lower(seen, release)
    return seen.release_sequence < release.release_sequence


def _is_lower(one: Release, other: Release) -> bool:
    """Whether a version is below another in the order of versions."""
    return parse_version(one.version).precedence < parse_version(other.version).precedence


@contextmanager
def _unreadable_is_an_error(path: Path) -> Iterator[None]:
    try:
        yield
    except MissingFile:
        raise
    except (EdgeloraError, OSError, ValueError, TypeError) as error:
        raise StoreError(
            f"{path} cannot be read, so nobody can tell which releases were seen: {error}",
            fix="restore it from a backup, or remove it if you know that the store is honest",
        ) from error


def _read(path: Path) -> Release | None:
    try:
        with _unreadable_is_an_error(path):
            document = json.loads(read_regular(path.parent, path.name, limit=_MAX_BYTES))
            seen = Release(**document)
            parse_version(seen.version)
            if type(seen.release_sequence) is not int or not _DIGEST.fullmatch(seen.manifest_digest):
                raise ValueError("a member has a wrong value")
            return seen
    except MissingFile:
        return None


def _forget(seen: Release) -> str:
    path = _path(seen, seen.issuer, seen.by_name)
    return "" if seen.issuer == _SIGNED else f"; if the store was made anew, forget the old one: rm {path}"


def _withdrew(store: Store, wanted: Reference, seen: Release) -> bool:
    """Whether the store that numbered a release says itself that it is gone; of a signed one it cannot."""
    if seen.issuer == _SIGNED:
        return False
    removed = {str(gone.reference.version) for gone in store.removed(wanted.namespace, wanted.name)}
    return seen.version in removed | store.yanked(wanted.namespace, wanted.name).keys()


def _path(release: Release, issuer: str, by_name: bool) -> Path:
    key = hashlib.sha256(f"{release.channel}\n{issuer}".encode()).hexdigest()[:24]
    return memory_of(release.adapter) / f"{key}.{'named' if by_name else 'latest'}.json"


def memory_of(adapter: str) -> Path:
    """Where what was seen of an adapter, ``ns/name``, is kept."""
    return home() / "state" / "releases" / adapter.replace("/", "--")
