"""The stores a user has given names to: ``stores.yaml`` in the configuration directory."""

from __future__ import annotations

import difflib
import os
import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import yaml

from edgelora.errors import StoreError, StoreNotFound
from edgelora.files import atomic_write, exclusive_lock
from edgelora.locations import config_dir, home
from edgelora.store.endpoint import HUB, is_address, is_encrypted, is_official
from edgelora.store.reference import check_store_name
from edgelora.strict_yaml import NotYaml, read_plain_yaml

LOCAL = "local"

_VARIABLE = re.compile(r"[A-Z_][A-Z0-9_]{0,127}")


@dataclass(frozen=True, slots=True)
class StoreConfig:
    """Names of stores and their addresses. ``local`` is always there: a mirror below ``home()``."""

    stores: dict[str, str] = field(default_factory=dict)
    """As configured, without ``local`` unless the user moved it."""
    default: str = LOCAL
    token_variables: dict[str, str] = field(default_factory=dict)
    """By store: the environment variable that holds its token. Tokens themselves are never written down."""

    @property
    def addresses(self) -> dict[str, str]:
        """Every name that can be used, sorted."""
        return dict(sorted({LOCAL: (home() / "mirror").as_uri(), **self.stores}.items()))

    def token_variable_of(self, address: str) -> str | None:
        """The environment variable with the token for an address, if the user named one for it."""
        names = (name for name, known in self.stores.items() if known == address)
        return next((self.token_variables[name] for name in names if name in self.token_variables), None)

    def address_of(self, name: str) -> str:
        """Where a named store is.

        Raises:
            StoreNotFound: No store has this name; says which have.
        """
        addresses = self.addresses
        if name in addresses:
            return addresses[name]
        near = difflib.get_close_matches(name, addresses, n=1)
        known = f"did you mean {near[0]}?" if near else f"use one of {', '.join(addresses)}"
        raise StoreNotFound(
            f"no store is named {name!r}", fix=f"{known} or add it: edgelora stores add {name} ADDRESS"
        )


def read_store_config() -> StoreConfig:
    """The configured stores.

    Raises:
        StoreError: ``stores.yaml`` is not what ``edgelora stores`` writes.
    """
    path = _path()
    try:
        document = read_plain_yaml(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return StoreConfig()
    except (NotYaml, UnicodeDecodeError) as error:
        raise _unreadable(path, str(error)) from error
    return _from_document(path, document)


def add_store(name: str, address: str, *, token_variable: str | None = None) -> StoreConfig:
    """Name a store. A plain path becomes a ``file://`` address.

    Args:
        name: What references call it.
        address: A directory, or the address of an endpoint.
        token_variable: The environment variable that holds the token for it; of this endpoint only.

    Raises:
        StoreError: The name is taken by another address, or the address is of an unknown kind; or a token is
            named for one that needs none, or would be sent in the clear.
    """
    check_store_name(name)
    address = normal_address(address)
    if token_variable is not None:
        _check_token(address, token_variable)
    with exclusive_lock(_path().with_suffix(".lock")):
        config = read_store_config()
        taken = config.stores.get(name, address)
        if taken != address:
            raise StoreError(
                f"the store {name} is {taken} already",
                fix=f"choose another name, or first: edgelora stores remove {name}",
            )
        variables = {known: value for known, value in config.token_variables.items() if known != name}
        if token_variable is not None:
            variables[name] = token_variable
        return _write(replace(config, stores={**config.stores, name: address}, token_variables=variables))


def remove_store(name: str) -> StoreConfig:
    """Forget a store's name. What lies in the store stays."""
    with exclusive_lock(_path().with_suffix(".lock")):
        config = read_store_config()
        config.address_of(name)
        if name not in config.stores:
            raise StoreError(
                f"the store {name} is built in", fix="choose another default instead of removing it"
            )
        stores = {known: address for known, address in config.stores.items() if known != name}
        default = LOCAL if config.default == name else config.default
        variables = {known: value for known, value in config.token_variables.items() if known != name}
        return _write(StoreConfig(stores=stores, default=default, token_variables=variables))


def set_default_store(name: str) -> StoreConfig:
    """Let references that name no store mean this one."""
    with exclusive_lock(_path().with_suffix(".lock")):
        config = read_store_config()
        config.address_of(name)
        return _write(replace(config, default=name))


def normal_address(address: str) -> str:
    """A store's address in one spelling: ``file:///srv/mirror``, ``https://host``, ``hf://``.

    Raises:
        StoreError: It is of an unknown kind, or not complete.
    """
    if "://" not in address:
        return Path(os.path.abspath(Path(address).expanduser())).as_uri()
    if address.startswith("file:///"):
        return directory_of(address).as_uri()
    if is_address(address):
        return address.rstrip("/")
    if address == HUB:
        return address
    raise StoreError(
        f"{address!r} is not the address of a store",
        fix="write a directory, file:///srv/mirror, https://host or hf://, without a password in it",
    )


def directory_of(address: str) -> Path:
    """The directory that a ``file://`` address names."""
    return Path(os.path.abspath(unquote(address.removeprefix("file://"))))


def real_address(address: str) -> str:
    """A store's address without links: a directory that has two names is one store."""
    return directory_of(address).resolve().as_uri() if address.startswith("file://") else address


def _path() -> Path:
    return config_dir() / "stores.yaml"


def _write(config: StoreConfig) -> StoreConfig:
    document: dict[str, Any] = {"default": config.default, "stores": dict(sorted(config.stores.items()))}
    if config.token_variables:
        document["tokens"] = dict(sorted(config.token_variables.items()))
    atomic_write(_path(), yaml.safe_dump(document, sort_keys=True).encode())
    return config


def _from_document(path: Path, document: Any) -> StoreConfig:
    if document is None:
        return StoreConfig()
    if not isinstance(document, dict) or set(document) - {"default", "stores", "tokens"}:
        raise _unreadable(path, "it may hold 'default', 'stores' and 'tokens', nothing else")
    stores = document.get("stores") or {}
    default = document.get("default", LOCAL)
    if not isinstance(stores, dict) or not isinstance(default, str):
        raise _unreadable(path, "'stores' is a mapping of names to addresses, 'default' is a name")
    for name, address in stores.items():
        if not isinstance(name, str) or not isinstance(address, str):
            raise _unreadable(path, f"store {name!r} needs a name and an address")
        check_store_name(name)
    tokens = document.get("tokens") or {}
    if not isinstance(tokens, dict) or not all(
        name in stores and isinstance(variable, str) for name, variable in tokens.items()
    ):
        raise _unreadable(path, "'tokens' is a mapping of names of stores to environment variables")
    addresses = {name: normal_address(address) for name, address in stores.items()}
    return StoreConfig(addresses, default, tokens)


def _check_token(address: str, variable: str) -> None:
    if not _VARIABLE.fullmatch(variable):
        raise StoreError(
            f"{variable[:40]!r} is not the name of an environment variable",
            fix="write the variable's name, such as FLEET_TOKEN, never the token itself",
        )
    if address == HUB or address.startswith("file://") or is_official(address):
        raise StoreError(
            f"{address} takes no token of its own",
            fix="leave --token-env out; for the Hub, log in with: hf auth login",
        )
    if not is_encrypted(address):
        raise StoreError(
            f"{address} is not encrypted, so no token is sent there",
            fix="use https, or leave --token-env out",
        )


def _unreadable(path: Path, problem: str) -> StoreError:
    return StoreError(
        f"{path} cannot be read: {problem}", fix="correct it, or delete it and add the stores again"
    )
