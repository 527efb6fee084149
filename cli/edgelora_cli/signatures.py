"""``edgelora sign``: put your name to an adapter."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgelora_cli.commands import Command
from edgelora_cli.console import emit, note, warn
from edgelora_cli.keys import ask_passphrase

if TYPE_CHECKING:
    from edgelora.signing import PrivateKey


@click.command(
    cls=Command,
    short_help="Sign an adapter.",
    examples="""
    edgelora sign runs/first/adapter --as acme/decimals@1.0.0 --key ops
    edgelora sign runs/first/adapter --key second-signer
    """,
)
@click.argument("folder", type=click.Path(path_type=Path))
@click.option(
    "--key", "names", multiple=True, required=True, metavar="NAME", help="A key to sign with (repeatable)."
)
@click.option(
    "--as",
    "reference",
    metavar="NS/NAME@VERSION",
    help="Give the manifest this identity first: what is signed is published as it is.",
)
@click.option(
    "--sequence",
    type=click.IntRange(min=1),
    help="With --as: the release sequence.  [default: the next one of the store]",
)
@click.option("--channel", metavar="NAME", help="With --as: the releases it follows, such as beta.")
@click.option(
    "--expires", metavar="MOMENT", help="With --as: not to be pulled after, as 2027-06-30T00:00:00Z."
)
def sign(
    folder: Path,
    names: tuple[str, ...],
    reference: str | None,
    sequence: int | None,
    channel: str | None,
    expires: str | None,
) -> None:
    """Sign the adapter in FOLDER; signatures by others that are there already are kept."""
    from edgelora.signing import sign as put_signatures
    from edgelora.transfer import release_as

    if reference is None and (sequence, channel, expires) != (None, None, None):
        raise click.UsageError("--sequence, --channel and --expires say nothing without --as")
    if expires is not None:
        _check_moment(expires)
    keys = [open_key(name) for name in names]
    if reference is not None:
        release_as(folder, reference, sequence=sequence, channel=channel, expires=expires)
    signed = put_signatures(folder, keys)
    identity = signed.manifest.identity
    name = f"{identity.namespace}/{identity.name}@{identity.version}"
    document = {
        "folder": str(signed.folder),
        "reference": name,
        "release_sequence": identity.release_sequence,
        "manifest_digest": signed.manifest_digest,
        "signatures": list(signed.keyids),
        "added": signed.added,
    }
    count = len(signed.keyids)
    state = f"signed by {count} key{'s' if count > 1 else ''}, {signed.added} of them new"
    emit(document, "\n  ".join([f"{name} {state}", signed.manifest_digest, *signed.keyids]))
    note(f"next: edgelora push {folder} {name}")


def _check_moment(text: str) -> None:
    try:
        moment = datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
    except ValueError as error:
        raise click.UsageError(
            f"--expires: {text!r} is no moment in UTC; write it as 2027-06-30T00:00:00Z"
        ) from error
    if moment < datetime.now(UTC):
        warn(f"--expires {text} is past: nobody will be able to pull the release")


def open_key(name: str) -> PrivateKey:
    """A key of the keyring, with its passphrase where it needs one."""
    from edgelora.signing import find_key, open_private

    return open_private(name, ask_passphrase(name) if find_key(name).is_locked else None)
