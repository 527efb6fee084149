"""``edgelora bundles``: adapters and bases in one file, carried where no network reaches."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgelora_cli.commands import Group
from edgelora_cli.console import emit, note, table, warn
from edgelora_cli.signatures import open_key
from edgelora_cli.trust_options import policy_of, policy_option, require_signature_option

if TYPE_CHECKING:
    from edgelora.bundles import Index


@click.group(cls=Group, short_help="Carry adapters and bases in one file.")
def bundles() -> None:
    """Carry adapters, and the base models they need, in one file to machines that no network reaches."""


@bundles.command(
    examples="""
    edgelora bundles create line7.edgelora acme/decimals@1.0.0 acme/sensors --base ./models/llama
    edgelora bundles create all.edgelora acme/decimals --from /media/usb/mirror --base micro --key ops
    """
)
@click.argument("out", type=click.Path(path_type=Path, dir_okay=False))
@click.argument("adapters", nargs=-1, metavar="[REF|DIR]...")
@click.option(
    "--base", "bases", multiple=True, metavar="FOLDER", help="A base model to take along (repeatable)."
)
@click.option("--from", "source", metavar="STORE", help="A store's name, a directory or an address.")
@click.option("--key", "names", multiple=True, metavar="NAME", help="A key to sign it with (repeatable).")
def create(
    out: Path,
    adapters: tuple[str, ...],
    bases: tuple[str, ...],
    source: str | None,
    names: tuple[str, ...],
) -> None:
    """Write adapters and bases into OUT; the same content gives the same bytes."""
    from edgelora.bundles import create_bundle

    keys = [open_key(name) for name in names]
    made = create_bundle(out, adapters, bases=bases, source=source, keys=keys)
    document = {
        "path": str(made.path),
        "sha256": made.sha256,
        "size_bytes": made.size_bytes,
        "signed": made.is_signed,
        **_contents(made.index),
    }
    emit(document, f"{out} holds\n{_listing(made.index)}\n  {made.size_bytes:,} bytes, sha256:{made.sha256}")
    note(f"next: edgelora bundles import {out}")


@bundles.command(
    "import",
    examples="""
    edgelora bundles import line7.edgelora
    edgelora bundles import line7.edgelora --to /srv/mirror --require-signature
    """,
)
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--to", metavar="STORE", help="A store's name, a directory or an address.")
@require_signature_option
@policy_option
def import_command(file: Path, to: str | None, require_signature: bool, trust_policy: Path | None) -> None:
    """Check all of FILE, publish its adapters in a store, and keep its bases on this machine."""
    from edgelora.bundles import import_bundle

    policy = policy_of(trust_policy, require_signature=False)
    done = import_bundle(file, to, policy=policy, require_signature=require_signature)
    for name, reason in done.yanks_ignored.items():
        warn(
            f"the bundle says that {name} was yanked by its publisher, and nobody you trust for it signed "
            f"the bundle, so it stands: {reason}"
        )
    lines = [f"{name} {'was there already' if name in done.reused else 'imported'}" for name in done.adapters]
    lines += [f"base {digest} is on this machine" for digest in done.bases]
    lines.append(f"  {done.store}\n  {done.copied_bytes:,} bytes were new")
    emit(asdict(done), "\n".join(lines))
    if done.adapters:
        note(f"next: edgelora pull {done.adapters[-1]}{f' --from {to}' if to else ''}")


@bundles.command(
    examples="""
    edgelora bundles show line7.edgelora
    edgelora bundles show line7.edgelora --json
    """
)
@click.argument("file", type=click.Path(path_type=Path))
@policy_option
def show(file: Path, trust_policy: Path | None) -> None:
    """Show what FILE holds, without importing it."""
    from edgelora.bundles import index_signers, open_bundle

    with open_bundle(file) as bundle:
        for adapter in bundle.index.adapters:
            bundle.manifest(adapter)
            if adapter.yanked:
                warn(f"{adapter.reference} was yanked by its publisher: {adapter.yanked}")
        signers = index_signers(bundle, policy_of(trust_policy, require_signature=False))
        document = {"path": str(file), "size_bytes": bundle.size_bytes, "signers": list(map(asdict, signers))}
        lines = [f"signed by {signer.name or signer.fingerprint}: {signer.standing}" for signer in signers]
        emit(
            document | _contents(bundle.index),
            "\n".join([_listing(bundle.index), *(lines or ["not signed"])]),
        )


def _contents(index: Index) -> dict[str, Any]:
    return {
        "adapters": [
            {
                "reference": str(adapter.reference),
                "manifest_digest": f"sha256:{adapter.manifest.sha256}",
                "yanked": adapter.yanked,
            }
            for adapter in index.adapters
        ],
        "bases": [
            {
                "repo": base.repo,
                "tensors_digest": base.tensors_digest,
                "size_bytes": sum(file.size for file in base.files),
            }
            for base in index.bases
        ],
        "files": len(index.blobs),
    }


def _listing(index: Index) -> str:
    rows = [
        ("adapter", str(adapter.reference), f"sha256:{adapter.manifest.sha256}") for adapter in index.adapters
    ]
    rows += [("base", base.repo, base.tensors_digest) for base in index.bases]
    return table(("", "name", "digest of its manifest, or of its weights"), rows)
