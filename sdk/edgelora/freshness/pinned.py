"""Which stores are held to signed metadata: those whose root of trust was pinned on this machine."""

from __future__ import annotations

import hashlib
import importlib.util
from pathlib import Path

from edgelora.confined import read_regular
from edgelora.errors import DependencyMissing, MissingFile
from edgelora.files import atomic_write
from edgelora.locations import home
from edgelora.manifest import Manifest
from edgelora.store import Reference, Snapshot, Store, real_address

MAX_ROOT_BYTES = 512_000
ROOT_NAME = "pinned-root.json"


def state_folder(address: str) -> Path:
    """What this machine has seen of a store's metadata; outside of everything that is pulled.

    A directory is known by its path without links, so that no other name of it proves less.
    """
    return home() / "state" / "tuf" / hashlib.sha256(real_address(address).encode()).hexdigest()[:24]


def is_pinned(address: str) -> bool:
    """Whether a store must prove that what it offers is current."""
    return (state_folder(address) / ROOT_NAME).is_file()


def pin_root(address: str, file: Path) -> Path:
    """Hold a store to the metadata that this root signs, from now on.

    Args:
        address: Of the store.
        file: ``1.root.json``, from whoever keeps the root keys and not from the mirror.

    Returns:
        Where the root is kept.

    Raises:
        MissingFile: There is no such file.
        SignatureInvalid: It is no root, or not signed by its own keys.
        DependencyMissing: The extra is not installed.
    """
    require_extra()
    from edgelora.freshness.client import check_root

    try:
        data = read_regular(file.parent, file.name, limit=MAX_ROOT_BYTES)
    except MissingFile as error:
        raise MissingFile(
            f"there is no root {file}", fix="pass the 1.root.json of the mirror's owner"
        ) from error
    check_root(data, str(file))
    place = state_folder(address) / ROOT_NAME
    atomic_write(place, data)
    return place


def check_listed(wanted: Reference, store: Store, snapshot: Snapshot, manifest: Manifest) -> None:
    """Hold a release against the store's metadata, where its root is pinned; nothing where it is not.

    Raises:
        EdgeloraError: As `edgelora.freshness.client.Listing.check`.
        DependencyMissing: The extra is not installed.
    """
    if is_pinned(store.address):
        require_extra()
        from edgelora.freshness.client import read_listing

        read_listing(store, snapshot.reference.namespace).check(wanted, snapshot, manifest)


def require_extra() -> None:
    """Refuse to go on without python-tuf.

    Raises:
        DependencyMissing: It is not installed.
    """
    if importlib.util.find_spec("tuf") is None:
        raise DependencyMissing(
            "the store is held to signed metadata, and python-tuf is not installed",
            fix="pip install 'edgelora[tuf]'",
        )
