"""``edgelora bases``: base models on this machine, and quantizing them once for all runs."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgelora_cli.commands import Group
from edgelora_cli.console import emit, note, table

if TYPE_CHECKING:
    from edgelora.plan import PlannedPart
    from edgelora.prepared import PreparedBase


@click.group(cls=Group, short_help="Quantize base models once, and see which are here.")
def bases() -> None:
    """Base models on this machine, and prepared bases: quantized once, and read as they lie ever after."""


@bases.command(
    examples="""
    edgelora bases prepare ./models/llama --quantizer nf4
    edgelora bases prepare micro --quantizer nf4 --set block_size=128 --out micro-128
    """
)
@click.argument("model")
@click.option("--quantizer", required=True, metavar="NAME", help="nf4, nf4-icq, int8, …: see plugins list.")
@click.option(
    "--set", "changes", multiple=True, metavar="OPTION=VALUE", help="An option of the quantizer (repeatable)."
)
@click.option(
    "--skip-modules", "skipped", multiple=True, metavar="NAME",
    help="A linear to leave unquantized, by name or suffix (repeatable).",
)  # fmt: skip
@click.option("--revision", help="Of a Hub id.")
@click.option(
    "--out", type=click.Path(path_type=Path), help="The folder to write.  [default: NAME-QUANTIZER, here]"
)
@click.option("--overwrite", is_flag=True, help="Replace the prepared base that is there.")
@click.option(
    "--threads",
    type=click.IntRange(min=1),
    help="CPU threads for torch; left out, the cores free at this moment.",
)
def prepare(
    model: str,
    quantizer: str,
    changes: tuple[str, ...],
    skipped: tuple[str, ...],
    revision: str | None,
    out: Path | None,
    overwrite: bool,
    threads: int | None,
) -> None:
    """Quantize MODEL, a folder, a cached Hub id or micro, tensor by tensor into a folder of its own.

    It needs the memory of the largest linear a few times over. Stopped, even by kill -9, it goes on where it
    was when the command is repeated.
    """
    part = _quantizer(quantizer, changes)
    folder = out or Path(f"{_name(model)}-{part.name}")
    _require_free(folder, overwrite)

    from edgelora_cli.dependencies import need_train_extra

    need_train_extra("preparing a base")

    from edgelora.engine.base import locate_base
    from edgelora.engine.preparing import prepare_base
    from edgelora.errors import Interrupted
    from edgelora.known_bases import remember_prepared
    from edgelora_cli.models import use_threads
    from edgelora_cli.progress import show_progress

    use_threads(threads)
    source = locate_base(model, revision)
    try:
        with show_progress("prepared") as on_progress:
            made = prepare_base(
                source, folder, part, skip_modules=skipped, overwrite=overwrite, on_progress=on_progress
            )
    except KeyboardInterrupt as error:
        raise Interrupted(
            f"stopped before {folder} was whole; its finished shards are kept",
            fix="repeat the command: it goes on after them",
        ) from error
    remember_prepared(made.folder)
    if made.reused_shards:
        note(f"{made.reused_shards} shards were finished by an earlier try")
    sizes = f"{made.record.size_bytes / 1e6:,.1f} MB, from {made.source_bytes / 1e6:,.1f} MB"
    document = {
        **_record(made.folder, made.record),
        "source_bytes": made.source_bytes,
        "reused_shards": made.reused_shards,
    }
    emit(document, f"prepared base: {folder} ({made.record.source.repo} in {part.name}, {sizes})")
    note(f"next: write 'base: {folder}' into a recipe, which then needs no quantizer")


@bases.command(
    "list",
    examples="""
    edgelora bases list
    edgelora bases list --json
    """,
)
def list_command() -> None:
    """List the bases that were prepared, trained on or brought in a bundle, and are still there."""
    from edgelora.known_bases import known_bases

    known = list(known_bases())
    document = [
        {
            "folder": str(base.folder),
            "origin": base.origin,
            "quantizer": base.record.quantizer.name if base.record else None,
            "repo": base.record.source.repo if base.record else None,
            "tensors_digest": base.tensors_digest,
        }
        for base in known
    ]
    rows = [
        (
            str(base.folder),
            base.record.quantizer.name if base.record else "",
            base.origin,
            base.tensors_digest[7:19],
        )
        for base in known
    ]
    text = table(("folder", "quantizer", "origin", "digest"), rows) if rows else "no base is known here"
    emit({"bases": document}, text)


@bases.command(
    examples="""
    edgelora bases show llama-nf4
    edgelora bases show ./models/llama --json
    """
)
@click.argument("folder")
def show(folder: str) -> None:
    """Show what FOLDER holds: a prepared base and what it was made from, or an unquantized base."""
    from edgelora.bases import base_folder
    from edgelora.manifest.base_identity import identify_base
    from edgelora.prepared import prepared_base

    place = base_folder(folder)
    record = prepared_base(place)
    if record is not None:
        emit(_record(place, record), _text(record))
        return
    base = identify_base(place)
    document = {
        "folder": str(place),
        "repo": base.repo,
        "architecture": base.architecture,
        "tensors_digest": base.tensors_digest,
        "quantizer": None,
        "size_bytes": sum(file.size for file in base.weights),
    }
    lines = [f"{base.repo}, {base.architecture}, unquantized", f"  weights    {base.tensors_digest}"]
    emit(document, "\n".join(lines))


@bases.command(
    examples="""
    edgelora bases verify llama-nf4
    edgelora bases verify llama-nf4 --source ./models/llama
    """
)
@click.argument("folder")
@click.option("--source", metavar="MODEL", help="The model it was made from: quantize it again and compare.")
def verify(folder: str, source: str | None) -> None:
    """Hash every file of a prepared base anew; with --source, show that it was made from that model.

    Without --source, what it was made from, by which quantizer and options, is the record's own word.
    """
    from edgelora.bases import base_folder
    from edgelora.errors import DigestMismatch
    from edgelora.manifest.base_identity import prepared_problems
    from edgelora.prepared import preparing_again

    place = base_folder(folder)
    record = _prepared(place)
    problems = list(prepared_problems(place, record, rehash=True))
    if source is not None and not problems:
        problems = [
            f"{name} is not what {record.quantizer.name} makes of {source}"
            for name in _differing(place, record, source)
        ]
    for problem in problems[1:]:
        note(problem)
    if problems:
        others = f" (and {len(problems) - 1} more, told above)" if problems[1:] else ""
        raise DigestMismatch(
            f"{folder} is not what its record says: {problems[0]}{others}",
            fix=preparing_again(place, record),
        )
    document = {
        "folder": str(place),
        "files": len(record.files),
        "bytes": record.size_bytes,
        "source": source,
    }
    shown = f", and made from {source}" if source else ""
    emit(document, f"sound: {len(record.files)} files, {record.size_bytes:,} bytes, as recorded{shown}")
    if source is None:
        note("source, quantizer and options are the record's own word; --source MODEL puts them to the test")


def _quantizer(name: str, changes: tuple[str, ...]) -> PlannedPart:
    from edgelora.errors import RecipeError
    from edgelora.plan.part import plan_part
    from edgelora.recipe_changes import apply_change
    from edgelora.registry import Registry

    document: dict[str, Any] = {"quantizer": {}}
    for change in changes:
        if "=" not in change:
            raise RecipeError(f"--set {change!r} has no '='", fix=f"write it as --set {change}=VALUE")
        apply_change(document, f"quantizer.{change}")
    return plan_part(Registry.discover().part("quantizer", name), document["quantizer"])


def _require_free(folder: Path, overwrite: bool) -> None:
    """What can be told before torch is imported; the preparation looks again, and closer."""
    from edgelora.errors import TargetExists
    from edgelora.prepared import RECORD_NAME

    if not overwrite and os.path.lexists(folder):
        replaced = "--overwrite, or " if (folder / RECORD_NAME).is_file() else ""
        raise TargetExists(f"{folder} exists already", fix=f"pass {replaced}another --out")


def _name(model: str) -> str:
    return Path(model).absolute().name if Path(model).expanduser().is_dir() else model.rpartition("/")[2]


def _prepared(place: Path) -> PreparedBase:
    from edgelora.errors import ModelError
    from edgelora.prepared import prepared_base

    record = prepared_base(place)
    if record is None:
        raise ModelError(
            f"{place} is no prepared base: it has no edgelora-base.json",
            fix="pass the folder that 'edgelora bases prepare' wrote",
        )
    return record


def _differing(place: Path, record: PreparedBase, source: str) -> list[str]:
    from edgelora_cli.dependencies import need_train_extra

    need_train_extra("comparing a prepared base with its source")

    from edgelora.engine.base import locate_base
    from edgelora.engine.preparing import differing_tensors
    from edgelora.registry import Registry
    from edgelora_cli.progress import show_progress

    with show_progress("compared") as on_progress:
        return differing_tensors(place, record, locate_base(source), Registry.discover(), on_progress)


def _record(place: Path, record: PreparedBase) -> dict[str, Any]:
    return {
        "folder": str(place),
        "repo": record.source.repo,
        "architecture": record.source.architecture,
        "tensors_digest": record.source.tensors_digest,
        "quantizer": record.quantizer.name,
        "options": record.quantizer.options,
        "skip_modules": list(record.skip_modules),
        "form": record.form,
        "size_bytes": record.size_bytes,
        "prepared_digest": record.tensors_digest,
    }


def _text(record: PreparedBase) -> str:
    part = record.quantizer
    options = ", ".join(f"{name}={value}" for name, value in part.options.items())
    forms = {"own": "edgelora alone reads it", "stock": "transformers reads it too"}
    lines = [
        f"{record.source.repo}, {record.source.architecture}, prepared",
        f"  quantizer  {part.name} (from {part.plugin}, {part.distribution} {part.version}): {options}",
        f"  source     {record.source.tensors_digest}",
        f"  prepared   {record.tensors_digest}",
        f"  files      {len(record.files)}, {record.size_bytes:,} bytes; {forms[record.form]}",
    ]
    if record.skip_modules:
        lines.append(f"  not quantized  {', '.join(record.skip_modules)}")
    return "\n".join(lines)
