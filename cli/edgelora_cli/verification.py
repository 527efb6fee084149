"""``edgelora verify``: check every byte of an adapter, without torch and without a network."""

from __future__ import annotations

from pathlib import Path

import click

from edgelora_cli.commands import Command
from edgelora_cli.console import emit


@click.command(
    cls=Command,
    short_help="Check every byte of an adapter.",
    examples="""
    edgelora verify runs/first/adapter
    edgelora verify acme/decimals@1.0.0 --json
    """,
)
@click.argument("adapter")
def verify(adapter: str) -> None:
    """Check ADAPTER, a folder or the reference of a pulled adapter, against its manifest.

    Checks the manifest, the set of files, every digest, the form of every tensor file, and that nothing in the
    folder can run code. Reports all it finds; the exit code is the class of the first.
    """
    from edgelora.verify import check
    from edgelora.verify import verify as find
    from edgelora_cli.references import adapter_folder

    folder = adapter_folder(adapter)
    findings = find(folder)
    if findings:
        _report(folder, findings)
    manifest = check(folder)
    count, size = len(manifest.files), sum(entry.size for entry in manifest.files)
    emit(
        {"folder": str(folder), "ok": True, "files": count, "bytes": size, "findings": []},
        f"{folder}: sound ({count} files, {size:,} bytes, tree {manifest.tree_digest})",
    )
