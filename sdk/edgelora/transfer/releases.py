"""Which releases this machine has seen, so that an old one is never taken for the latest.

Kept beside the adapters and never inside one: removing an adapter, or pulling it again, forgets nothing. Of
each adapter and channel the highest release sequence is remembered: once for releases that trusted keys
signed, and once for each store, which numbers the releases that nobody signed.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from edgelora.confined import read_regular
from edgelora.errors import EdgeloraError, Equivocation, MissingFile, Rollback, StoreError
from edgelora.files import atomic_write, exclusive_lock
from edgelora.locations import home
from edgelora.manifest import Manifest
from edgelora.signing.judge import channel_of
from edgelora.store import Reference, Store, is_version

_MAX_BYTES = 4096
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_SIGNED = "signed"


@dataclass(frozen=True, slots=True)
class Release:
    """The highest release that was seen of one adapter and channel."""

    adapter: str
    channel: str
    issuer: str
    """``signed``, or the address of the store that numbered it."""
    version: str
    release_sequence: int
    manifest_digest: str


def release_of(manifest: Manifest, data: bytes, *, issuer: str | None = None) -> Release:
    """What a manifest says of itself.

    Args:
        manifest: The manifest.
        data: Its bytes.
        issuer: The address of the store that numbered it; None for one that trusted keys signed.
    """
    identity = manifest.identity
    return Release(
        adapter=f"{identity.namespace}/{identity.name}",
        channel=channel_of(identity),
        issuer=issuer or _SIGNED,
        version=identity.version,
        release_sequence=identity.release_sequence,
        manifest_digest=f"sha256:{hashlib.sha256(data).hexdigest()}",
    )


def refuse_old(release: Release, wanted: Reference, store: Store) -> str | None:
    """Refuse a release that is older than one that was seen; what to say of one that was asked for by name.

    Raises:
        Rollback: It is older, and the reference names neither a version nor a digest.
        Equivocation: Its number was seen with other content, whatever the reference names.
        StoreError: What was remembered cannot be read.
    """
    is_pinned = bool(wanted.digest) or is_version(wanted.version or "") or _is_commit(wanted.version or "")
    remarks = []
    for issuer in (_SIGNED, store.address):
        seen = _read(_path(release.adapter, release.channel, issuer))
        if seen is not None:
            may_be_older = is_pinned or _withdrew(store, wanted, seen)
            remarks.append(compare_releases(release, seen, may_be_older=may_be_older, forget=_forget(seen)))
    return next((remark for remark in remarks if remark), None)


def compare_releases(release: Release, seen: Release, *, may_be_older: bool, forget: str = "") -> str | None:
    """Hold a release against the highest one that was seen; what to say of one that may be older, and is.

    Args:
        release: What is offered.
        seen: Of the same adapter and channel.
        may_be_older: It was asked for by its version or digest.
        forget: How to forget what was seen, at the end of a fix.

    Raises:
        Rollback: It is older.
        Equivocation: It has the same number and other content.
    """
    if release.release_sequence > seen.release_sequence or release == seen:
        return None
    if release.release_sequence == seen.release_sequence:
        if release.manifest_digest == seen.manifest_digest:
            return None
        raise Equivocation(
            f"{release.adapter}@{release.version} is offered as release {release.release_sequence} of the "
            f"channel {release.channel}, and that release was {seen.version} ({seen.manifest_digest}) "
            f"before, not {release.manifest_digest}",
            fix=f"ask its publisher which one is right, and pull neither until then{forget}",
        )
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
    """Note a release that is now on this machine; durable when this returns."""
    path = _path(release.adapter, release.channel, release.issuer)
    with exclusive_lock(path.with_suffix(".lock")):
        seen = _read(path)
        if seen is None or seen.release_sequence < release.release_sequence:
            atomic_write(path, (json.dumps(asdict(release), sort_keys=True, indent=1) + "\n").encode())


def current_time() -> datetime:
    """This moment, or the last one that a trusted signature gave if the clock was set back behind it."""
    system = datetime.now(UTC).replace(microsecond=0)
    try:
        text = read_regular(_folder(), "clock", limit=64).decode("ascii").strip()
        return max(system, parse_moment(text))
    except (MissingFile, UnicodeDecodeError, ValueError):
        return system


def note_time(moment: str) -> None:
    """Remember a moment from a manifest that trusted keys signed."""
    path = _folder() / "clock"
    with exclusive_lock(path.with_suffix(".lock")):
        if parse_moment(moment) > current_time():
            atomic_write(path, f"{moment}\n".encode())


def parse_moment(text: str) -> datetime:
    """A moment as manifests write it."""
    return datetime.fromisoformat(text.removesuffix("Z") + "+00:00")


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
            if type(seen.release_sequence) is not int or not _DIGEST.fullmatch(seen.manifest_digest):
                raise ValueError("a member has a wrong value")
            return seen
    except MissingFile:
        return None


def _is_commit(text: str) -> bool:
    return _COMMIT.fullmatch(text) is not None


def _forget(seen: Release) -> str:
    path = _path(seen.adapter, seen.channel, seen.issuer)
    return "" if seen.issuer == _SIGNED else f"; if the store was made anew, forget the old one: rm {path}"


def _withdrew(store: Store, wanted: Reference, seen: Release) -> bool:
    """Whether the store that numbered a release says itself that it is gone; of a signed one it cannot."""
    if seen.issuer == _SIGNED:
        return False
    removed = {str(gone.reference.version) for gone in store.removed(wanted.namespace, wanted.name)}
    return seen.version in removed | store.yanked(wanted.namespace, wanted.name).keys()


def _path(adapter: str, channel: str, issuer: str) -> Path:
    key = hashlib.sha256(f"{channel}\n{issuer}".encode()).hexdigest()[:24]
    return _folder() / "releases" / adapter.replace("/", "--") / f"{key}.json"


def _folder() -> Path:
    return home() / "state"
