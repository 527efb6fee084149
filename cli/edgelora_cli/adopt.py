"""``edgelora adopt``: taking in an adapter that PEFT saved."""

from __future__ import annotations

from pathlib import Path

import click

from edgelora_cli.commands import Command, threads_option
from edgelora_cli.console import emit, note, warn
from edgelora_cli.dependencies import need_train_extra


@click.command(
    cls=Command,
    short_help="Take in an adapter that PEFT saved.",
    examples="""
    edgelora adopt ./their-adapter --as acme/sensors@1.0.0
    edgelora adopt hf://someone/their-adapter@main --base ./models/llama --out adapters/theirs
    """,
)
@click.argument("adapter", metavar="REF|DIR")
@click.option("--base", help="Folder, digest or Hub id of the base.  [default: the one ADAPTER names]")
@click.option("--as", "name", metavar="NS/NAME[@VERSION]", help="What to call it.")
@click.option("--out", type=click.Path(path_type=Path), help="The folder to make.  [default: adopted/NAME]")
@click.option("--license", "license_", metavar="SPDX", help="Its licence, instead of the card's.")
@threads_option
def adopt(
    adapter: str,
    base: str | None,
    name: str | None,
    out: Path | None,
    license_: str | None,
    threads: int | None,
) -> None:
    """Make an edgelora adapter of one that PEFT saved: in a folder, in the Hub's cache, or in a store.

    It is converted where needed, and adopted only if it computes exactly what it did. Pickles are refused.
    """
    need_train_extra("adopting")
    from edgelora.about import is_unspecified
    from edgelora.engine.adopting import adopt as take_in
    from edgelora.engine.adopting import locate_source
    from edgelora.registry import Registry
    from edgelora_cli.models import use_threads

    use_threads(threads)
    target = out or Path("adopted") / (name or adapter.rstrip("/")).partition("@")[0].rpartition("/")[2]
    with locate_source(adapter) as folder:
        done = take_in(folder, Registry.discover(), target, base=base, name=name, license=license_)
    manifest = done.manifest
    if is_unspecified(manifest.license):
        warn(
            "its card names no licence, so others may not use it: ask its author, or give one with --license"
        )
    document = {
        "folder": str(done.folder),
        "kind": done.kind,
        "license": manifest.license,
        "publisher": manifest.publisher,
        "base": manifest.base.repo,
        "tree_digest": manifest.tree_digest,
        "difference": done.difference,
    }
    # Two plain words with a slash between would name an adapter in a store.
    place = done.folder if done.folder.is_absolute() else f"./{done.folder}"
    text = f"adopted {done.kind} as {place}; its logits differ from PEFT's by {done.difference:.2g}"
    emit(document, f"{text}\n  base {manifest.base.repo}, {manifest.license}")
    note(f"next: edgelora push {place} {name or 'NS/NAME'}")
