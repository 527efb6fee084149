"""``export peft``: a directory that stock PEFT loads and computes the same with."""

from __future__ import annotations

import json
import re
import secrets
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from edgelora.engine.exporting.card import exported_card
from edgelora.engine.exporting.dequantized import dequantized_base
from edgelora.engine.exporting.forms import PeftFiles, forms_of
from edgelora.engine.exporting.refusing import PEFT
from edgelora.engine.exporting.source import Source, Wanted, open_source
from edgelora.engine.exporting.stock_base import declared_base
from edgelora.errors import ExportUnsupported
from edgelora.files import (
    disk_full_is_an_error,
    fsync_dir,
    make_dirs,
    publish_new_directory,
    refuse_existing,
    write_new,
)
from edgelora.manifest.lora_shapes import PEFT_CONFIG_FILE, PLAIN_LORA_FILE
from edgelora.registry import Registry

CARD_NAME = "README.md"


@dataclass(frozen=True, slots=True)
class ExportedFolder:
    """What was written.

    Attributes:
        folder: The directory.
        adapter: ``ns/name@version`` it was made from.
        base: The base that it names.
        quantization: Fields of ``BitsAndBytesConfig`` that make that base; empty for the base as it is.
        tasks: One directory each below ``folder``; empty where ``folder`` itself is the adapter.
    """

    folder: Path
    adapter: str
    base: str
    quantization: Mapping[str, Any]
    tasks: tuple[str, ...]


def export_peft(
    reference: str,
    out: Path,
    wanted: Wanted | None = None,
    *,
    registry: Registry | None = None,
) -> ExportedFolder:
    """Write an adapter as a PEFT directory, which appears whole or not at all.

    ``PeftModel.from_pretrained`` computes from it, on the base it names, what edgelora computes. Of an
    adapter that computes by task there is one directory for each, unless one is wanted.

    Args:
        reference: An adapter directory, a pulled adapter, or a reference into a store.
        out: The directory to make.
        wanted: Which of its functions, and where its base is. Of that only ``config.json`` is read, and only
            where the adapter is rebuilt.
        registry: The installed plugins.

    Raises:
        ExportUnsupported: Stock PEFT, or stock transformers, does not compute what the adapter computes; or
            a task has a name that no folder can have.
        TargetExists: ``out`` is there already.
        DiskFull: No space is left; nothing stays behind.
        EdgeloraError: What `edgelora.engine.exporting.forms.forms_of` raises.
    """
    refuse_existing(out)
    wanted, registry = wanted or Wanted(), registry or Registry.discover()
    source = open_source(reference)
    base = dequantized_base(source, wanted.over) if wanted.over else declared_base(source, registry)
    forms = forms_of(source, registry, wanted, PEFT)
    tasks = tuple(each for each in forms if each is not None and wanted.task is None)
    _check_folders(source, tasks)
    staging = out.absolute().with_name(f".{out.name}.{secrets.token_hex(4)}.tmp")
    with disk_full_is_an_error(out):
        make_dirs(staging)
        try:
            for each, files in forms.items():
                place = staging / each if each in tasks else staging
                card = exported_card(source, replace(wanted, task=each), base)
                _write(place, _naming(files, source, base.name), source, card)
            publish_new_directory(staging, out.absolute())
        finally:
            shutil.rmtree(staging, ignore_errors=True)
    return ExportedFolder(out, source.name, base.name, base.quantization, tasks)


def _check_folders(source: Source, tasks: Iterable[str]) -> None:
    """Names of tasks are a stranger's, and must not lead out of the folder."""
    for task in tasks:
        if task in ("", ".", "..") or re.search(r"[/\\\x00-\x1f\x7f]", task) or len(task.encode()) > 255:
            raise ExportUnsupported(
                f"adapter {source.name} has a task {task[:100]!r}, which no folder can be named after",
                fix="export the tasks one by one: --task TASK",
            )


def _naming(files: PeftFiles, source: Source, base: str) -> PeftFiles:
    """The same over a base of this name, if that is another one."""
    if base == source.manifest.base.repo:
        return files
    config = json.loads(files.config) | {"base_model_name_or_path": base, "revision": None}
    return replace(files, config=(json.dumps(config, indent=2, sort_keys=True) + "\n").encode())


def _write(place: Path, files: PeftFiles, source: Source, card: str) -> None:
    make_dirs(place)
    licenses = {name: source.read(name) for name in source.manifest.license_files or ()}
    beside = {**licenses, CARD_NAME: card.encode()}
    for name, data in {**beside, PEFT_CONFIG_FILE: files.config, PLAIN_LORA_FILE: files.weights}.items():
        make_dirs((place / name).parent)
        write_new(place / name, data)
    fsync_dir(place)
