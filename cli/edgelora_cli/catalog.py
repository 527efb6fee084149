"""``edgelora list``, ``show``, ``search`` and ``remove``: what there is, here and in a store."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import click

from edgelora_cli.commands import Command, yes_flag
from edgelora_cli.console import confirm, emit, table, warn
from edgelora_cli.terminal import one_line

if TYPE_CHECKING:
    from edgelora.manifest import Manifest
    from edgelora.transfer import Listing

from_option = click.option(
    "--from", "source", metavar="STORE", help="A store's name, a directory or an address."
)


@click.command(
    "list",
    cls=Command,
    short_help="List the adapters here or in a store.",
    examples="""
    edgelora list
    edgelora list --from local
    edgelora list --from /media/usb/mirror --json
    """,
)
@from_option
def list_command(source: str | None) -> None:
    """List the adapters pulled to this machine, or with --from those published in a store."""
    from edgelora.transfer import list_adapters, list_published

    found = list_adapters() if source is None else list_published(source)
    empty = "no adapter was pulled to this machine; edgelora list --from STORE lists a store"
    _emit_listings(found, empty if source is None else f"{source} holds no adapters")


@click.command(
    cls=Command,
    short_help="Find adapters in a store.",
    examples="""
    edgelora search decimals
    edgelora search --derivative qlora --language id --from site
    """,
)
@click.argument("words", nargs=-1, metavar="[WORD]...")
@from_option
@click.option("--derivative", help="Made with this derivative.")
@click.option("--base", help="Whose base has this in its name.")
@click.option("--language", help="For this language; en also finds en-GB.")
@click.option("--license", help="Under this license.")
def search(words: tuple[str, ...], source: str | None, **criteria: str | None) -> None:
    """Find adapters of a store whose name, derivative, base, language or license has every WORD."""
    from edgelora.transfer import search as find

    _emit_listings(find(" ".join(words), source, **criteria), "nothing was found")


@click.command(
    cls=Command,
    short_help="Show what an adapter says about itself.",
    examples="""
    edgelora show runs/first/adapter
    edgelora show acme/decimals@1.0.0 --from /media/usb/mirror
    edgelora show acme/decimals --json
    """,
)
@click.argument("adapter")
@from_option
def show(adapter: str, source: str | None) -> None:
    """Show the manifest of ADAPTER: a folder, a pulled adapter, or one in a store, without fetching it."""
    from edgelora.manifest import manifest_bytes
    from edgelora.transfer import find_manifest, yank_reason

    manifest = find_manifest(adapter, source)
    if reason := yank_reason(adapter, source):
        warn(f"this version was yanked by its publisher: {reason}")
    emit(json.loads(manifest_bytes(manifest)), _describe(manifest))


@click.command(
    cls=Command,
    short_help="Delete an adapter, here or in a store.",
    examples="""
    edgelora remove acme/decimals@1.0.0
    edgelora remove acme/decimals@1.0.0 --from site --yes
    """,
)
@click.argument("reference")
@from_option
@yes_flag
def remove(reference: str, source: str | None) -> None:
    """Delete a pulled adapter, or one version from the store that --from or REFERENCE names."""
    from edgelora.store import parse_reference
    from edgelora.transfer import address_named
    from edgelora.transfer import remove as delete

    address = address_named(reference, source)
    # From here on only the address counts: what is deleted is what the question names.
    wanted = str(replace(parse_reference(reference), store=None))
    confirm(f"Remove {wanted} from {f'the store {address}' if address else 'this machine'}?")
    removed = delete(wanted, address)
    emit(asdict(removed), f"removed {removed.reference} from {removed.place}")


def _emit_listings(found: Sequence[Listing], empty: str) -> None:
    for listing in found:
        if listing.problem:
            warn(f"{listing.reference} in {listing.place} cannot be read: {listing.problem}")
        for version, reason in listing.yanked.items():
            warn(f"{listing.reference.partition('@')[0]}@{version} was yanked by its publisher: {reason}")
    rows = [
        (
            listing.reference,
            ", ".join(listing.derivatives),
            listing.base,
            ", ".join(listing.languages),
            listing.license,
            f"{listing.size_bytes:,}",
        )
        for listing in found
        if not listing.problem
    ]
    header = ("adapter", "derivative", "base", "languages", "license", "bytes")
    emit({"adapters": [asdict(listing) for listing in found]}, table(header, rows) if rows else empty)


def _describe(manifest: Manifest) -> str:
    identity, base = manifest.identity, manifest.base
    lines = [
        f"{identity.namespace}/{identity.name}@{identity.version}, made {identity.created_at}",
        f"release   {_release(manifest)}",
        f"base      {base.repo} ({base.architecture})",
        f"          {base.tensors_digest}",
    ]
    for component in manifest.components:
        paper = f" ({component.derivative.paper})" if component.derivative.paper else ""
        lines.append(f"made by   {component.derivative.name}{paper}")
        lines += [
            f"          {kind.replace('_', ' ')} {part.name}, {part.distribution} {part.version}"
            for kind, part in component.parts.items()
        ]
    if manifest.publisher:
        lines.append(f"publisher {manifest.publisher}")
    lines.append(f"license   {manifest.license}")
    if manifest.languages:
        lines.append(f"languages {', '.join(manifest.languages)}")
    if manifest.use:
        said = {"for": manifest.use.intended, "not for": manifest.use.out_of_scope, "risk": manifest.use.risk}
        lines += [f"{name:<9} {' '.join(text.split())}" for name, text in said.items() if text]
    lines += [f"{origin.relation:<9} {origin.manifest_digest}" for origin in manifest.derived_from or ()]
    lines += [f"file      {entry.path}  {entry.size:,} bytes" for entry in manifest.files]
    lines.append(f"tree      {manifest.tree_digest}")
    lines = [one_line(line) for line in lines]
    if manifest.evaluation:
        rows = [_measurement(entry) for entry in manifest.evaluation]
        lines += ["", table(("metric", "of", "value", "95 % interval", "n"), rows)]
    return "\n".join(lines)


def _release(manifest: Manifest) -> str:
    from edgelora.manifest import DEFAULT_CHANNEL

    identity = manifest.identity
    expiry = f", not to be pulled after {manifest.expires}" if manifest.expires else ""
    return f"{identity.release_sequence} of channel {identity.channel or DEFAULT_CHANNEL}{expiry}"


def _measurement(entry: Any) -> tuple[str, ...]:
    known = entry.low is not None and entry.high is not None
    interval = f"{float(entry.low):.3f} to {float(entry.high):.3f}" if known else ""
    return entry.metric, entry.phase or "", f"{float(entry.value):.3f}", interval, str(entry.n)
