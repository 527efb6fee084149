"""From a name or an address to a store that can be used."""

from __future__ import annotations

from pathlib import Path

from edgelora.errors import StoreError, StoreNotFound
from edgelora.store.configured import LOCAL, directory_of, normal_address, read_store_config
from edgelora.store.directory import DirectoryStore
from edgelora.store.protocol import Store


def open_store(name_or_address: str | None = None) -> Store:
    """Open a configured store by name, or any store by address or path; None is the default store.

    Raises:
        StoreNotFound: No store has this name.
        StoreError: The address is of a kind that cannot be opened.
    """
    config = read_store_config()
    given = config.default if name_or_address is None else name_or_address
    if "/" not in given and ":" not in given and given not in (".", ".."):
        if given not in config.addresses and Path(given).is_dir():
            raise StoreNotFound(
                f"no store is named {given!r}", fix=f"write ./{given} if you mean the directory"
            )
        return _open(config.address_of(given), is_local=given == LOCAL)
    return _open(normal_address(given), is_local=False)


def _open(address: str, *, is_local: bool) -> Store:
    if address.startswith("file://"):
        # Only below edgelora's own directory are parents made: elsewhere a missing one is a disk not mounted.
        return DirectoryStore(directory_of(address), make_parents=is_local)
    raise StoreError(
        f"{address} cannot be opened: this edgelora reads and writes directory mirrors only",
        fix="use a directory, or its address file:///srv/mirror",
    )
