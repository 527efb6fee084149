"""Which stores and namespaces are held to signed metadata: those a root of trust was pinned for here."""

from __future__ import annotations

import hashlib
import importlib.util
from pathlib import Path

from edgelora.confined import read_regular
from edgelora.errors import DependencyMissing, MissingFile, StoreError
from edgelora.files import atomic_write
from edgelora.locations import home
from edgelora.manifest import Manifest
from edgelora.store import Reference, Snapshot, Store, check_name, real_address

MAX_ROOT_BYTES = 512_000
ROOT_NAME = "pinned-root.json"


def state_folder(address: str) -> Path:
    """What this machine has seen of a store's metadata; outside of everything that is pulled.

    A directory is known by its path without links, so that no other name of it proves less.
    """
    return home() / "state" / "tuf" / hashlib.sha256(real_address(address).encode()).hexdigest()[:24]


def namespace_folder(namespace: str) -> Path:
    """The same of a namespace: what all stores together have shown of it."""
    return home() / "state" / "tuf" / "namespaces" / namespace


def states_of(address: str, namespace: str) -> list[Path]:
    """Where what was seen is kept, of each root that a store must satisfy for a namespace; mostly none."""
    states = (state_folder(address), namespace_folder(namespace))
    return [state for state in states if (state / ROOT_NAME).is_file()]


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
        StoreError: The store is no directory; metadata of others cannot be read yet.
        DependencyMissing: The extra is not installed.
    """
    if not address.startswith("file://"):
        raise StoreError(
            f"{address} cannot be held to signed metadata: it is read from directories only",
            fix="pin the root for a directory mirror, or pin signing keys instead: edgelora keys trust",
        )
    return _pin(state_folder(address), file)


def pin_namespace(namespace: str, file: Path) -> Path:
    """Hold a namespace to the metadata that this root signs, whichever store it is pulled from.

    Every copy of the mirror must then show the metadata, and none may be behind another.

    Args:
        namespace: Of adapters.
        file: ``1.root.json``, from whoever keeps the root keys.

    Returns:
        Where the root is kept.

    Raises:
        ReferenceFormError: It cannot be the name of a namespace.
        MissingFile: There is no such file.
        SignatureInvalid: It is no root, or not signed by its own keys.
        DependencyMissing: The extra is not installed.
    """
    check_name(namespace, what="a namespace")
    return _pin(namespace_folder(namespace), file)


def _pin(state: Path, file: Path) -> Path:
    require_extra()
    from edgelora.freshness.client import check_root

    try:
        data = read_regular(file.parent, file.name, limit=MAX_ROOT_BYTES)
    except MissingFile as error:
        raise MissingFile(
            f"there is no root {file}", fix="pass the 1.root.json of the mirror's owner"
        ) from error
    check_root(data, str(file))
    place = state / ROOT_NAME
    atomic_write(place, data)
    return place


def check_listed(wanted: Reference, store: Store, snapshot: Snapshot, manifest: Manifest) -> None:
    """Hold a release against the metadata of each root that is pinned for it; nothing where none is.

    Raises:
        EdgeloraError: As `edgelora.freshness.client.Listing.check`.
        DependencyMissing: The extra is not installed.
    """
    namespace = snapshot.reference.namespace
    for state in states_of(store.address, namespace):
        require_extra()
        from edgelora.freshness.client import read_listing

        read_listing(store, namespace, state).check(wanted, snapshot, manifest)


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
