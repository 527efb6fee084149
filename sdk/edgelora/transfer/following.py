"""Which channel of releases is followed, and the latest release of it that a store offers.

A reference that names no release means the latest of one channel. A store that offers another channel's
cannot change which one that is: the user does, or the trust policy.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from edgelora.confined import read_regular
from edgelora.errors import ChannelRefused, EdgeloraError, MissingFile, StoreError
from edgelora.files import atomic_write
from edgelora.manifest import DEFAULT_CHANNEL, Manifest, parse_manifest
from edgelora.signing.judge import channel_of
from edgelora.signing.policy import TrustPolicy
from edgelora.store import Reference, Snapshot, Store, sort_versions
from edgelora.transfer.releases import memory_of, names_one

_CHANNEL = re.compile(r"[a-z0-9]+(?:[._-][a-z0-9]+)*")
_MOST_VERSIONS = 50


@dataclass(frozen=True, slots=True)
class Offer:
    """What a store offers for a reference."""

    snapshot: Snapshot
    data: bytes
    """Of the manifest, as the store gave them."""
    manifest: Manifest

    @property
    def channel(self) -> str:
        """Which releases it follows."""
        return channel_of(self.manifest.identity)


def find_offer(wanted: Reference, store: Store, policy: TrustPolicy, channel: str | None) -> Offer:
    """What a store offers for a reference, in the channel that is followed where it names no release.

    Args:
        wanted: What the user asked for.
        store: Where.
        policy: May name channels.
        channel: The only one to take it from; None is any for a release that is named, and else the channel
            that was chosen last, or by default.

    Raises:
        AdapterNotFound: The store does not hold it.
        ChannelRefused: What it offers is of another channel.
        StoreError: The channel that was chosen last cannot be read.
    """
    offer = _offer(wanted, store)
    if channel is None and names_one(wanted):
        return offer
    followed = channel or followed_channel(wanted, policy)
    if offer.channel == followed:
        return offer
    if wanted.version is None and wanted.digest is None:
        yanked = store.yanked(wanted.namespace, wanted.name)
        standing = [each for each in store.versions(wanted.namespace, wanted.name) if each not in yanked]
        for version in _newest_first(standing)[:_MOST_VERSIONS]:
            other = _offer(wanted.at(version), store)
            if other.channel == followed:
                return other
    found = f"{wanted.adapter}@{offer.manifest.identity.version}"
    raise ChannelRefused(
        f"{found} is a release of the channel {offer.channel}, and {store.address} offers none of the "
        f"channel {followed}, which is followed here, among its newest versions",
        fix=f"to follow the other one: edgelora pull {wanted.adapter} --channel {offer.channel}",
    )


def followed_channel(wanted: Reference, policy: TrustPolicy) -> str:
    """The channel chosen last; else ``stable``, or the first one that the policy takes instead.

    Raises:
        StoreError: What was chosen cannot be read.
    """
    path = memory_of(wanted.adapter) / "channel"
    try:
        chosen = read_regular(path.parent, path.name, limit=256).decode().strip()
        if not _CHANNEL.fullmatch(chosen):
            raise ValueError("it names no channel")
        return chosen
    except MissingFile:
        allowed = policy.rule_for(wanted.namespace, wanted.name).channels
        return allowed[0] if allowed and DEFAULT_CHANNEL not in allowed else DEFAULT_CHANNEL
    except (EdgeloraError, OSError, ValueError) as error:
        raise StoreError(
            f"{path} cannot be read, so nobody can tell which releases are followed: {error}",
            fix="choose again: edgelora pull NAME --channel NAME",
        ) from error


def follow_channel(wanted: Reference, channel: str) -> None:
    """Let references that name no release mean the latest of this channel from now on."""
    atomic_write(memory_of(wanted.adapter) / "channel", f"{channel}\n".encode())


def _offer(reference: Reference, store: Store) -> Offer:
    snapshot = store.resolve(reference)
    data = store.read_manifest(snapshot.reference)
    return Offer(snapshot, data, parse_manifest(data, f"the manifest of {snapshot.reference}"))


def _newest_first(versions: list[str]) -> list[str]:
    """Releases before pre-releases, as `latest_version` prefers them."""
    ordered = sort_versions(versions)[::-1]
    return sorted(ordered, key=lambda version: "-" in version.partition("+")[0])
