"""Releases their publisher withdrew: withdrawing one, and what a pull of one is told."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from edgelora.errors import AdapterNotFound, Yanked
from edgelora.store import Reference, Snapshot, Store, is_folder_path, open_store, parse_reference
from edgelora.store.endpoint import endpoint_url
from edgelora.store.pins import note_yanks, read_pins
from edgelora.transfer.pushing import store_named
from edgelora.transfer.shelf import manifest_digest, place_of, pulled_versions


@dataclass(frozen=True, slots=True)
class Withdrawal:
    """The state of a version after ``yank`` or ``unyank``."""

    reference: str
    """With the version."""
    store: str
    yanked: str | None
    """The reason; None if the version stands."""


def yank(reference: str, reason: str, source: str | None = None) -> Withdrawal:
    """Withdraw a version: it stays in the store, is passed over, and a pull that names it is refused.

    Args:
        reference: With a version or a digest.
        reason: One line, shown to whoever asks for the version.
        source: A store's name or address, instead of the one in the reference or the default store.

    Raises:
        AdapterNotFound: The store does not hold it.
        ReferenceFormError: No version is named, or the reason cannot be shown.
    """
    wanted = parse_reference(reference)
    store = open_store(store_named(wanted, source))
    return _withdrawal(store.yank(wanted, reason), store)


def unyank(reference: str, source: str | None = None) -> Withdrawal:
    """Let a withdrawn version stand again; changes nothing for one that stands.

    Raises:
        AdapterNotFound: The store does not hold it.
        ReferenceFormError: No version is named.
    """
    wanted = parse_reference(reference)
    store = open_store(store_named(wanted, source))
    return _withdrawal(store.unyank(wanted), store)


def yank_reason(adapter: str, source: str | None = None) -> str | None:
    """Why the version that ``find_manifest`` finds in a store was withdrawn; None for anything else."""
    if source is None and is_folder_path(adapter):
        return None
    wanted = parse_reference(adapter)
    named = store_named(wanted, source)
    if named is None and pulled_versions(wanted.namespace, wanted.name):
        return None
    try:
        return open_store(named).resolve(wanted).yanked
    except AdapterNotFound:
        return None


@contextmanager
def noting_yanks(store: Store, wanted: Reference) -> Iterator[None]:
    """Once a store was asked for a version, note with what was pulled before which of it is withdrawn now."""
    try:
        yield
    except Yanked:
        _note(store, wanted)
        raise
    _note(store, wanted)


def refuse_yanked(snapshot: Snapshot, target: Path, *, allowed: bool) -> None:
    """Refuse a withdrawn version, unless the user knows and takes it; tell if it is on this machine already.

    Raises:
        Yanked: With its publisher's reason.
    """
    if snapshot.yanked is None or allowed:
        return
    is_here = manifest_digest(target) == f"sha256:{snapshot.manifest.sha256}"
    there = f"; it is on this machine, in {target}" if is_here else ""
    remedy = " and remove this one" if is_here else ""
    raise Yanked(
        f"{snapshot.reference} was yanked by its publisher{there}: {snapshot.yanked}",
        fix=f"pull another version{remedy}, or take it knowingly with --allow-yanked",
    )


def yanked_here(store: Store, pinned: Reference) -> dict[str, str]:
    """Other versions of an adapter that are on this machine's shelf and were withdrawn, with the reasons."""
    others = [
        version for version in pulled_versions(pinned.namespace, pinned.name) if version != pinned.version
    ]
    if not others:
        return {}
    yanked = store.yanked(pinned.namespace, pinned.name)
    return {
        str(replace(pinned, store=None).at(version)): yanked[version]
        for version in others
        if version in yanked and _is_from(store, pinned.at(version))
    }


def _note(store: Store, wanted: Reference) -> None:
    endpoint = endpoint_url(store.address)
    if any((pin.endpoint, pin.adapter) == (endpoint, wanted.adapter) for pin in read_pins()):
        note_yanks(endpoint, wanted.adapter, store.yanked(wanted.namespace, wanted.name))


def _is_from(store: Store, pinned: Reference) -> bool:
    """Whether the copy on the shelf is what this store withdrew, and not another of the same name."""
    with suppress(AdapterNotFound):
        return manifest_digest(place_of(pinned)) == f"sha256:{store.resolve(pinned).manifest.sha256}"
    return False


def _withdrawal(snapshot: Snapshot, store: Store) -> Withdrawal:
    return Withdrawal(str(snapshot.reference), store.address, snapshot.yanked)
