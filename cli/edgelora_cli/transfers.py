"""``edgelora push`` and ``edgelora pull``: adapters to and from a store."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from edgelora_cli.commands import Command
from edgelora_cli.console import emit, note, warn
from edgelora_cli.progress import show_progress
from edgelora_cli.trust_options import policy_of, policy_option, require_signature_option


@click.command(
    cls=Command,
    short_help="Publish an adapter to a store.",
    examples="""
    edgelora push runs/first/adapter acme/decimals@1.0.0
    edgelora push runs/first/adapter acme/decimals --to /media/usb/mirror
    edgelora push runs/first/adapter hf://acme/decimals@1.0.0
    """,
)
@click.argument("folder", type=click.Path(path_type=Path))
@click.argument("reference", metavar="NS/NAME[@VERSION]")
@click.option(
    "--to", metavar="STORE", help="A store's name, a directory or an address.  [default: the default store]"
)
@click.option("--public", is_flag=True, help="Let a repository made for it on the Hub be public.")
def push(folder: Path, reference: str, to: str | None, public: bool) -> None:
    """Verify FOLDER and publish it as NS/NAME[@VERSION]; a version, once published, never changes."""
    from edgelora.about import is_unspecified
    from edgelora.transfer import push as publish

    receipt = publish(folder, reference, to=to, public=public)
    if is_unspecified(receipt.license):
        warn(
            f"{receipt.reference} names no licence, so nobody else may use it: "
            "set about.license in the recipe, such as Apache-2.0, and publish a new version"
        )
    sent = f"{receipt.files} files, {receipt.bytes:,} bytes, {receipt.reused_bytes:,} of them there already"
    state = "was published before" if receipt.reused else "published"
    emit(
        asdict(receipt),
        f"{receipt.reference} {state}\n  {receipt.store}\n  {sent}\n  {receipt.manifest_digest}",
    )
    note(f"next: edgelora pull {receipt.reference}{f' --from {to}' if to else ''}")


@click.command(
    cls=Command,
    short_help="Fetch an adapter from a store and verify it.",
    examples="""
    edgelora pull acme/decimals
    edgelora pull acme/decimals@1.0.0 --from /media/usb/mirror --into ./adapters/decimals
    edgelora pull acme/decimals --require-signature
    edgelora pull acme/decimals --channel beta
    """,
)
@click.argument("reference")
@click.option("--from", "source", metavar="STORE", help="A store's name, a directory or an address.")
@click.option(
    "--into", type=click.Path(path_type=Path), help="The folder to write.  [default: below edgelora's home]"
)
@click.option("--allow-yanked", is_flag=True, help="Take a version that its publisher withdrew.")
@click.option("--channel", metavar="NAME", help="The releases to follow from now on.  [default: stable]")
@require_signature_option
@policy_option
def pull(
    reference: str,
    source: str | None,
    into: Path | None,
    allow_yanked: bool,
    channel: str | None,
    require_signature: bool,
    trust_policy: Path | None,
) -> None:
    """Fetch REFERENCE, verify who signed it and every byte, and only then make it visible."""
    from edgelora.transfer import pull as fetch

    with show_progress() as on_progress:
        pulled = fetch(
            reference,
            source=source,
            into=into,
            allow_yanked=allow_yanked,
            channel=channel,
            policy=policy_of(trust_policy, require_signature),
            on_progress=on_progress,
        )
    for remark in pulled.remarks:
        warn(remark)
    if pulled.yanked:
        warn(f"{pulled.reference} was yanked by its publisher: {pulled.yanked}")
    for other, reason in pulled.yanked_here.items():
        warn(f"{other}, which is on this machine, was yanked by its publisher: {reason}")
    document = {
        "reference": pulled.reference,
        "folder": str(pulled.folder),
        "store": pulled.store,
        "tree_digest": pulled.manifest.tree_digest,
        "fetched_bytes": pulled.fetched_bytes,
        "reused": pulled.reused,
        "signers": [asdict(signer) for signer in pulled.signers],
        "remarks": list(pulled.remarks),
        "yanked": pulled.yanked,
        "yanked_here": pulled.yanked_here,
    }
    state = "was here already, and is sound" if pulled.reused else "pulled and verified"
    trusted = ", ".join(signer.name or signer.fingerprint for signer in pulled.signers if signer.counts)
    lines = [
        f"{pulled.reference} {state}",
        str(pulled.folder),
        *([f"signed by {trusted}"] if trusted else []),
    ]
    emit(document, "\n  ".join(lines))
