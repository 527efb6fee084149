"""``edgelora stores``: the named places adapters live in."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from edgelora_cli.commands import Group
from edgelora_cli.console import emit, table, warn

if TYPE_CHECKING:
    from edgelora.store import StoreConfig


@click.group(cls=Group, short_help="Name the places adapters live in.")
def stores() -> None:
    """Name the places adapters live in; a reference such as site:acme/decimals uses the name.

    The store "local" is a directory mirror on this machine, made when something is first pushed to it.
    """


@stores.command(
    "list",
    examples="""
    edgelora stores list
    edgelora stores list --json
    """,
)
def list_command() -> None:
    """List the configured stores."""
    from edgelora.store import read_store_config

    _emit_stores(read_store_config())


@stores.command(
    examples="""
    edgelora stores add site /srv/mirror
    edgelora stores add usb file:///media/usb/mirror --default
    edgelora stores add hub hf://
    edgelora stores add fleet https://mirror.example --token-env FLEET_TOKEN
    """
)
@click.argument("name")
@click.argument("address")
@click.option("--default", "is_default", is_flag=True, help="Let references without a store mean this one.")
@click.option(
    "--token-env",
    metavar="VARIABLE",
    help="The environment variable with the token for this endpoint; the token itself is not written down.",
)
def add(name: str, address: str, is_default: bool, token_env: str | None) -> None:
    """Call the store at ADDRESS NAME: a directory, hf://, or an endpoint that speaks the Hub's protocol."""
    from edgelora.store import add_store, set_default_store
    from edgelora.store.endpoint import is_encrypted

    config = add_store(name, address, token_variable=token_env)
    if address.startswith("http://") and not is_encrypted(address):
        warn(f"{address} is not encrypted: whoever is on the way can read and change what is sent")
    _emit_stores(set_default_store(name) if is_default else config)


@stores.command(
    examples="""
    edgelora stores remove usb
    """
)
@click.argument("name")
def remove(name: str) -> None:
    """Forget the store NAME; the adapters in it stay where they are."""
    from edgelora.store import remove_store

    _emit_stores(remove_store(name))


def _emit_stores(config: StoreConfig) -> None:
    stores = [
        {
            "name": name,
            "address": address,
            "default": name == config.default,
            "token_env": config.token_variables.get(name),
        }
        for name, address in config.addresses.items()
    ]
    rows = [
        (
            str(each["name"]),
            str(each["address"]),
            str(each["token_env"] or ""),
            "default" if each["default"] else "",
        )
        for each in stores
    ]
    emit({"stores": stores}, table(("store", "address", "token in", ""), rows))
