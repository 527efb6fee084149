"""From a name or an address to a store that can be used."""

from __future__ import annotations

import os
from pathlib import Path

from edgelora.errors import StoreError, StoreNotFound
from edgelora.store.configured import LOCAL, StoreConfig, directory_of, normal_address, read_store_config
from edgelora.store.directory import DirectoryStore
from edgelora.store.endpoint import Endpoint, check_endpoint, is_encrypted, is_official, is_offline
from edgelora.store.offline import OfflineStore
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
        return _open(config.address_of(given), config, is_local=given == LOCAL)
    return _open(normal_address(given), config, is_local=False)


def _open(address: str, config: StoreConfig, *, is_local: bool) -> Store:
    if address.startswith("file://"):
        # Only below edgelora's own directory are parents made: elsewhere a missing one is a disk not mounted.
        return DirectoryStore(directory_of(address), make_parents=is_local)
    url = check_endpoint(address, is_configured=address in config.stores.values())
    if is_offline():
        return OfflineStore(address, url)
    # Imported here: whoever uses directories needs no HTTP.
    from edgelora.store.hub_store import HubStore

    return HubStore(Endpoint(address, url, _token(address, url, config)))


def _token(address: str, url: str, config: StoreConfig) -> str | None:
    """What the user lets this endpoint see: the token named for it, or for the Hub the Hub's own.

    ``HF_ENDPOINT`` may put any endpoint in the place of ``hf://``; it sees what is named for that endpoint.

    Raises:
        StoreError: The variable that was named for it is not set, or anybody on the way could read the token.
    """
    variable = config.token_variable_of(address) or config.token_variable_of(url)
    if variable is None:
        if not is_official(url):
            return None
        from edgelora.store.hub import official_token

        token = official_token()
    else:
        token = os.environ.get(variable)
        if not token:
            raise StoreError(
                f"{url} needs the token in {variable}, which is not set",
                fix=f"export {variable}=…, or add the store again without --token-env",
            )
    if token and not is_encrypted(url):
        raise StoreError(
            f"{url} is not encrypted, so no token is sent there",
            fix="use https, or leave the token out",
        )
    return token
