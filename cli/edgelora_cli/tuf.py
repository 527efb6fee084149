"""``edgelora tuf``: signed statements about what a mirror holds now, for its owner and for its readers."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgelora_cli.commands import Group
from edgelora_cli.console import emit
from edgelora_cli.signatures import open_key
from edgelora_cli.trust_options import policy_option

if TYPE_CHECKING:
    from edgelora.freshness.authoring import Statements, Written

root_option = click.option(
    "--root", "root", multiple=True, required=True, metavar="NAME", help="An offline key (repeatable)."
)
online_option = click.option(
    "--online", required=True, metavar="NAME", help="The key that states what is current."
)
days_option = click.option(
    "--days", type=click.IntRange(1, 400), default=60, show_default=True, help="How long a statement holds."
)


@click.group(cls=Group, short_help="Prove that a mirror is current.")
def tuf() -> None:
    """Prove that a mirror is current (The Update Framework; needs edgelora[tuf]).

    The owner of a mirror signs what it holds; readers who trust its root are then told when a mirror goes
    back, stands still, or mixes states. Metadata lies in the mirror's folder tuf.
    """


@tuf.command(
    examples="""
    edgelora tuf init /srv/mirror --root alice --root bob --threshold 2 --online gateway
    """
)
@click.argument("store")
@root_option
@click.option(
    "--threshold", type=click.IntRange(min=1), default=1, show_default=True, help="Root keys needed."
)
@online_option
@days_option
def init(store: str, root: tuple[str, ...], threshold: int, online: str, days: int) -> None:
    """Make the first metadata of the mirror STORE. Keep the root keys offline afterwards."""
    written = _statements(store, online, days).init([open_key(name) for name in root], threshold=threshold)
    _emit(written, f"give readers {written.folder / '1.root.json'}, not through the mirror")


@tuf.command(
    examples="""
    edgelora tuf delegate /srv/mirror acme --key acme-release --root alice --root bob --online gateway
    """
)
@click.argument("store")
@click.argument("namespace")
@click.option("--key", "keys", multiple=True, required=True, metavar="NAME|FILE", help="Whose (repeatable).")
@click.option("--threshold", type=click.IntRange(min=1), default=1, show_default=True, help="Of them needed.")
@root_option
@online_option
@days_option
def delegate(
    store: str,
    namespace: str,
    keys: tuple[str, ...],
    threshold: int,
    root: tuple[str, ...],
    online: str,
    days: int,
) -> None:
    """Let these keys, and no others, list the releases of NAMESPACE."""
    from edgelora.signing import key_named

    public = [key_named(key).public for key in keys]
    signers = [open_key(name) for name in root]
    written = _statements(store, online, days).delegate(namespace, public, signers, threshold=threshold)
    _emit(written, f"{namespace} is listed by {threshold} of {len(public)} keys")


@tuf.command(
    examples="""
    edgelora tuf publish /srv/mirror acme --key acme-release --online gateway
    edgelora tuf publish /srv/mirror acme --key acme-release --online gateway --accept acme/decimals@1.0.0
    """
)
@click.argument("store")
@click.argument("namespace")
@click.option("--key", "keys", multiple=True, required=True, metavar="NAME", help="Repeatable.")
@online_option
@click.option(
    "--accept",
    "accepted",
    multiple=True,
    metavar="NS/NAME@VERSION",
    help="You removed, replaced or unyanked it (repeatable).",
)
@policy_option
@days_option
def publish(
    store: str,
    namespace: str,
    keys: tuple[str, ...],
    online: str,
    accepted: tuple[str, ...],
    trust_policy: Path | None,
    days: int,
) -> None:
    """List what the mirror holds of NAMESPACE now; to be done after every push, yank and removal.

    It is refused if something that was listed changed behind your back, and what is new must meet the trust
    policy.
    """
    from edgelora.signing import read_policy

    signers = [open_key(name) for name in keys]
    written = _statements(store, online, days).publish(
        namespace, signers, accepted=accepted, policy=read_policy(trust_policy)
    )
    lines = [f"{written.releases} releases of {namespace} are listed", *written.changes]
    _emit(written, "\n  ".join(lines))


@tuf.command(
    examples="""
    edgelora tuf refresh /srv/mirror --online gateway --days 30
    """
)
@click.argument("store")
@online_option
@days_option
def refresh(store: str, online: str, days: int) -> None:
    """State again that what was published is current, before the last statement runs out."""
    _emit(_statements(store, online, days).refresh(), "what was published is current")


@tuf.command(
    examples="""
    edgelora tuf rotate /srv/mirror --key alice --root alice --root bob --online gateway
    """
)
@click.argument("store")
@click.option(
    "--key", "keys", multiple=True, required=True, metavar="NAME|FILE", help="Of the new root (repeatable)."
)
@click.option("--threshold", type=click.IntRange(min=1), default=1, show_default=True, help="Of them needed.")
@root_option
@online_option
@days_option
def rotate(
    store: str, keys: tuple[str, ...], threshold: int, root: tuple[str, ...], online: str, days: int
) -> None:
    """Make the next root: other keys, another online key, or the same for another year.

    --root names who signs: enough keys of the root before, and enough of the new ones.
    """
    from edgelora.signing import key_named

    public = [key_named(key).public for key in keys]
    signers = [open_key(name) for name in root]
    written = _statements(store, online, days).rotate(public, signers, threshold=threshold)
    _emit(written, f"{threshold} of {len(public)} keys are the root now; readers follow by themselves")


@tuf.command(
    examples="""
    edgelora tuf trust /srv/mirror 1.root.json
    edgelora tuf trust /srv/mirror 1.root.json --namespace acme
    """
)
@click.argument("store")
@click.argument("root", type=click.Path(path_type=Path))
@click.option(
    "--namespace",
    "namespaces",
    multiple=True,
    metavar="NS",
    help="Hold it to ROOT wherever it is pulled from (repeatable).",
)
def trust(store: str, root: Path, namespaces: tuple[str, ...]) -> None:
    """Hold STORE to the metadata that ROOT signs, from the next pull on."""
    from edgelora.freshness import pin_namespace, pin_root
    from edgelora.store import open_store

    address = open_store(store).address
    place = pin_root(address, root)
    for namespace in namespaces:
        pin_namespace(namespace, root)
    held = ", ".join((address, *(f"every copy of {namespace}" for namespace in namespaces)))
    document = {"store": address, "root": str(place), "namespaces": list(namespaces)}
    emit(document, f"{held} must prove from now on to be current")


def _statements(store: str, online: str, days: int) -> Statements:
    from edgelora.errors import StoreError
    from edgelora.freshness import require_extra
    from edgelora.store import DirectoryStore, open_store

    require_extra()
    from edgelora.freshness.authoring import Statements

    opened = open_store(store)
    if not isinstance(opened, DirectoryStore):
        raise StoreError(f"{opened.address} is no directory", fix="make its metadata where its directory is")
    return Statements(opened, open_key(online), days=days)


def _emit(written: Written, line: str) -> None:
    document = asdict(written) | {"folder": str(written.folder)}
    emit(document, f"{line}\n  statement {written.timestamp}, good until {written.expires}")
