"""Reading a mirror's metadata with python-tuf's own client, and holding a release against it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

from tuf.api import exceptions
from tuf.api.metadata import Metadata, Root, Targets
from tuf.ngclient import FetcherInterface, Updater

from edgelora.confined import open_regular, read_regular
from edgelora.errors import (
    Freeze,
    MissingFile,
    MixAndMatch,
    PathError,
    Rollback,
    SignatureInvalid,
    SignatureUntrusted,
    StoreError,
    Yanked,
)
from edgelora.files import exclusive_lock, fsync_dir
from edgelora.freshness.pinned import MAX_ROOT_BYTES, ROOT_NAME
from edgelora.manifest import DEFAULT_CHANNEL, Manifest
from edgelora.signing.judge import channel_of
from edgelora.store import DirectoryStore, Reference, Snapshot, Store, is_version, latest_version
from edgelora.transfer.clock import clock_hint, current_time

FOLDER = "tuf"
RELEASE = "edgelora"
"""The member of a target's ``custom`` that holds what is ours."""
_PIECE_BYTES = 65536
_FIX = "pull from another mirror, and tell the owner of this one"


@dataclass(frozen=True, slots=True)
class Listed:
    """A release as the metadata has it."""

    manifest_sha256: str
    size: int
    release_sequence: int
    channel: str
    yanked: str | None


@dataclass(frozen=True, slots=True)
class Listing:
    """Every release of one namespace, by ``ns/name/version``."""

    address: str
    releases: dict[str, Listed]

    def check(self, wanted: Reference, snapshot: Snapshot, manifest: Manifest) -> None:
        """Refuse a release that the mirror's owner does not list, or did not mean to be the latest.

        Raises:
            MixAndMatch: It is not listed, or with another manifest or number, or another one is the latest.
            Yanked: The owner withdrew it, and the mirror hides that.
        """
        version = manifest.identity.version
        listed = self.releases.get(f"{wanted.adapter}/{version}")
        if listed is None:
            raise self._mixed(f"offers {wanted.adapter}@{version}, which its signed metadata does not list")
        identity = manifest.identity
        file = snapshot.manifest
        actual = (file.sha256, file.size, identity.release_sequence, channel_of(identity))
        if actual != (listed.manifest_sha256, listed.size, listed.release_sequence, listed.channel):
            raise self._mixed(
                f"offers {wanted.adapter}@{version} with the manifest sha256:{snapshot.manifest.sha256}, and "
                f"its metadata lists release {listed.release_sequence}, sha256:{listed.manifest_sha256}"
            )
        if listed.yanked is not None and snapshot.yanked is None:
            raise Yanked(
                f"{wanted.adapter}@{version} was yanked by its publisher, which {self.address} does not say: "
                f"{listed.yanked}",
                fix="pull another version",
            )
        latest = self._latest(wanted, channel_of(identity))
        if latest not in (None, version):
            raise self._mixed(
                f"offers {wanted.adapter}@{version}, and its signed metadata lists {latest} as the latest"
            )

    def _latest(self, wanted: Reference, channel: str) -> str | None:
        """The version that an unpinned reference must lead to in a channel; None where it pins one."""
        prefix = f"{wanted.adapter}/"
        offered = {
            path.removeprefix(prefix): listed
            for path, listed in self.releases.items()
            if path.startswith(prefix) and listed.yanked is None and listed.channel == channel
        }
        if wanted.version is None and wanted.digest is None:
            return latest_version(offered)
        if wanted.version is not None and not is_version(wanted.version) and offered:
            return max(offered, key=lambda version: offered[version].release_sequence)
        return None

    def _mixed(self, problem: str) -> MixAndMatch:
        return MixAndMatch(f"{self.address} {problem}", fix=_FIX)


def read_listing(store: Store, namespace: str, state: Path) -> Listing:
    """Refresh what is known of a store's metadata, and give the releases of one namespace.

    Args:
        store: Where.
        namespace: Of which.
        state: One of `states_of`: the root that was pinned, and what was seen of what it signs.

    Raises:
        Freeze: The metadata is past its date, or is not there.
        Rollback: It is older than what was seen before.
        MixAndMatch: Its parts do not belong together.
        SignatureUntrusted: Too few of the keys that must sign it did.
        SignatureInvalid: It is malformed.
        StoreError: The store is of a kind whose metadata cannot be read.
    """
    if not isinstance(store, DirectoryStore):
        raise StoreError(
            f"{store.address} is pinned to signed metadata, which is read from directories only",
            fix="pull from a directory mirror",
        )
    root = read_regular(state, ROOT_NAME, limit=MAX_ROOT_BYTES)
    with exclusive_lock(state / "lock"), _tuf_errors_are_ours(store.address, namespace):
        updater = Updater(str(state), "mirror://", fetcher=_DirectoryFetcher(store.root), bootstrap=root)
        updater.refresh()
        # A name that cannot be a release: looking it up loads the namespace's own metadata.
        updater.get_targetinfo(f"{namespace}/-/-")
        _check_dates(state, namespace)
        releases = _releases(state, namespace)
        _make_durable(state)
    return Listing(store.address, releases)


def check_root(data: bytes, where: str) -> None:
    """Refuse what is no root of trust.

    Raises:
        SignatureInvalid: It is no root, or not signed by its own keys.
    """
    try:
        root = Metadata[Root].from_bytes(data)
        if not isinstance(root.signed, Root):
            raise exceptions.RepositoryError("it is no root")
        root.signed.verify_delegate(Root.type, root.signed_bytes, root.signatures)
    except (exceptions.RepositoryError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise SignatureInvalid(
            f"{where} is no root of signed metadata: {error}", fix="ask the mirror's owner for 1.root.json"
        ) from error


class _DirectoryFetcher(FetcherInterface):
    """Reads metadata from a directory, following no link."""

    def __init__(self, mirror: Path) -> None:
        self._mirror = mirror

    def _fetch(self, url: str) -> Iterator[bytes]:
        name = unquote(url.rpartition("/")[2])
        try:
            file = open_regular(self._mirror, f"{FOLDER}/{name}")
        except (MissingFile, PathError) as error:
            raise exceptions.DownloadHTTPError(f"{name} is not there", 404) from error
        with file:
            while piece := file.read(_PIECE_BYTES):
                yield piece


def role_of(namespace: str) -> str:
    """The role that lists a namespace's releases; never one of those that TUF itself names."""
    return f"ns-{namespace}"


def _releases(state: Path, namespace: str) -> dict[str, Listed]:
    """From files that python-tuf verified a moment ago; a namespace nobody was given holds nothing."""
    role = role_of(namespace)
    delegations = Metadata[Targets].from_file(str(state / "targets.json")).signed.delegations
    if delegations is None or role not in (delegations.roles or {}):
        return {}
    releases = {}
    for name, target in Metadata[Targets].from_file(str(state / f"{role}.json")).signed.targets.items():
        custom = target.custom or {}
        match custom.get(RELEASE):
            case {"releaseSequence": int(sequence), **rest}:
                # Present is withdrawn, whatever the reason says.
                yanked = str(rest["yanked"]) if "yanked" in rest else None
                channel = str(rest.get("channel", DEFAULT_CHANNEL))
                sha256 = target.hashes.get("sha256", "")
                releases[name] = Listed(sha256, target.length, sequence, channel, yanked)
            case _:
                raise exceptions.RepositoryError(f"the target {name} says nothing of its release")
    return releases


def _check_dates(state: Path, namespace: str) -> None:
    """Once more, by a clock that knows what the namespace's trusted signatures said of the time."""
    now = current_time(namespace)
    for role in ("root", "timestamp", "snapshot", "targets", role_of(namespace)):
        path = state / f"{role}.json"
        if path.is_file() and Metadata.from_file(str(path)).signed.is_expired(now):
            raise exceptions.ExpiredMetadataError(f"{role}.json is expired")


def _make_durable(state: Path) -> None:
    for folder in (state, state / "root_history"):
        for entry in os.scandir(folder):
            if entry.is_file(follow_symlinks=False):
                with open(entry.path, "rb") as file:
                    os.fsync(file.fileno())
        fsync_dir(folder)


@contextmanager
def _tuf_errors_are_ours(address: str, namespace: str) -> Iterator[None]:
    try:
        yield
    except exceptions.ExpiredMetadataError as error:
        raise Freeze(
            f"the signed metadata of {address} is past its date, so a newer release may be hidden: {error}",
            fix="ask the mirror's owner to refresh it: edgelora tuf refresh; check this machine's clock"
            f"{clock_hint(namespace)}",
        ) from error
    except exceptions.BadVersionNumberError as error:
        raise Rollback(
            f"the signed metadata of {address} is older than what was seen before: {error}", fix=_FIX
        ) from error
    except (exceptions.LengthOrHashMismatchError, exceptions.DownloadLengthMismatchError) as error:
        raise MixAndMatch(
            f"the signed metadata of {address} does not belong together: {error}", fix=_FIX
        ) from error
    except exceptions.UnsignedMetadataError as error:
        raise SignatureUntrusted(
            f"the metadata of {address} is not signed by enough of the keys that must sign it: {error}",
            fix=_FIX,
        ) from error
    except exceptions.DownloadError as error:
        raise Freeze(
            f"{address} does not show its signed metadata: {error}",
            fix="ask the mirror's owner for it, or pull from another mirror",
        ) from error
    except exceptions.RepositoryError as error:
        raise SignatureInvalid(f"the metadata of {address} is malformed: {error}", fix=_FIX) from error
