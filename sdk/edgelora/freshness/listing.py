"""What a mirror holds of a namespace, and how that differs from what its owner listed the last time.

Whoever keeps the mirror's disk holds no key. What they changed must not become the owner's statement unseen.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

from tuf.api.metadata import TargetFile

from edgelora.errors import MixAndMatch
from edgelora.freshness.client import RELEASE
from edgelora.manifest import parse_manifest
from edgelora.signing import TrustPolicy, judge
from edgelora.store import DirectoryStore, Reference, parse_reference
from edgelora.transfer.provenance import read_signature

Targets = dict[str, TargetFile]
"""By ``ns/name/version``."""


def list_releases(
    store: DirectoryStore, namespace: str, before: Targets, policy: TrustPolicy
) -> dict[str, TargetFile]:
    """Every version of a namespace, its number, its channel, and whether it is yanked.

    Args:
        store: The mirror.
        namespace: Of the adapters.
        before: What was listed the last time: what is as it was then is not judged again.
        policy: Whose signatures count.

    Raises:
        EdgeloraError: What `judge` finds of a release that was not listed before.
    """
    found = {}
    for adapter in store.list_adapters():
        reference = parse_reference(adapter)
        if reference.namespace != namespace:
            continue
        yanked = store.yanked(namespace, reference.name)
        for version in store.versions(namespace, reference.name):
            path = f"{adapter}/{version}"
            target = _target(store, reference.at(version), path, yanked.get(version))
            if path not in before or _content(target) != _content(before[path]):
                _judge(store, reference.at(version), policy)
            found[path] = target
    return found


def compare_listings(before: Targets, now: Targets, accepted: Collection[str], address: str) -> list[str]:
    """What is different, in lines for the owner to read.

    Args:
        before: What was listed the last time.
        now: What the mirror holds.
        accepted: ``ns/name@version`` of what may be gone, replaced, or not yanked any more.
        address: Of the mirror.

    Raises:
        MixAndMatch: Something is, and was not accepted.
    """
    suspicious = dict(_suspicious(before, now))
    refused = {name: line for name, line in suspicious.items() if name not in accepted}
    if refused:
        raise MixAndMatch(
            f"{address} does not hold what was listed: {'; '.join(refused.values())}",
            fix="find out who changed the mirror; if it was you, say so: "
            + " ".join(f"--accept {name}" for name in refused),
        )
    added = [f"{_name(path)} is new" for path in sorted(now.keys() - before.keys())]
    yanked = [
        f"{_name(path)} is yanked: {_said(now[path])['yanked']}"
        for path in sorted(now)
        if "yanked" in _said(now[path]) and (path not in before or "yanked" not in _said(before[path]))
    ]
    return [*added, *yanked, *suspicious.values()]


def _suspicious(before: Targets, now: Targets) -> Iterator[tuple[str, str]]:
    for path, listed in sorted(before.items()):
        name = _name(path)
        if path not in now:
            yield name, f"{name} is gone"
        elif _content(now[path]) != _content(listed):
            yield name, f"{name} is another release than sha256:{listed.hashes['sha256']}"
        elif "yanked" in _said(listed) and "yanked" not in _said(now[path]):
            yield name, f"{name} is not yanked any more"


def _target(store: DirectoryStore, pinned: Reference, path: str, yanked: str | None) -> TargetFile:
    file = store.resolve(pinned).manifest
    identity = parse_manifest(store.read_manifest(pinned), str(pinned)).identity
    said: dict[str, Any] = {"releaseSequence": identity.release_sequence}
    if identity.channel is not None:
        said["channel"] = identity.channel
    if yanked is not None:
        said["yanked"] = yanked
    return TargetFile(file.size, {"sha256": file.sha256}, path, {"custom": {RELEASE: said}})


def _judge(store: DirectoryStore, pinned: Reference, policy: TrustPolicy) -> None:
    data = store.read_manifest(pinned)
    signature = read_signature(store, store.resolve(pinned))
    identity = parse_manifest(data, str(pinned)).identity
    judge(data, signature, identity=identity, policy=policy, where=str(pinned))


def _content(target: TargetFile) -> tuple[object, ...]:
    said = {member: value for member, value in _said(target).items() if member != "yanked"}
    return target.length, target.hashes, said


def _said(target: TargetFile) -> dict[str, Any]:
    said: dict[str, Any] = target.custom[RELEASE] if target.custom else {}
    return said


def _name(path: str) -> str:
    adapter, _, version = path.rpartition("/")
    return f"{adapter}@{version}"
