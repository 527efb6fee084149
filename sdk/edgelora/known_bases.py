"""Folders of base models this machine trained on, prepared or was brought, so that they are found again.

Only a convenience: whatever folder is found here is identified anew before an adapter is applied to it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from edgelora.bases import bases_folder, find_base
from edgelora.errors import BaseNotFound, DiskFull, EdgeloraError, OfflineNotCached
from edgelora.files import atomic_write
from edgelora.locations import cache_dir
from edgelora.manifest import Base, PartRef
from edgelora.prepared import RECORD_NAME, PreparedBase, prepared_base


@dataclass(frozen=True, slots=True)
class KnownBase:
    """A base model on this machine."""

    folder: Path
    tensors_digest: str
    """Of the unquantized weights, as they were when the base was last looked at."""
    origin: Literal["used", "prepared", "bundle"]
    record: PreparedBase | None = None
    """Of a prepared base."""


def remember_base(base: Base, folder: Path) -> None:
    """Note where a base lies; a cache that cannot be written is left alone."""
    if (folder / RECORD_NAME).is_file():
        remember_prepared(folder)
        return
    known = _read(_used_path())
    known[base.tensors_digest] = str(folder)
    _write(_used_path(), known)


def remember_prepared(folder: Path) -> None:
    """Note where a prepared base lies."""
    known = _read(_prepared_path())
    known[str(folder)] = "prepared"
    _write(_prepared_path(), known)


def recall_base(base: Base, quantizer: PartRef | None = None) -> Path | None:
    """A folder with these weights that is still there: unquantized, where one is known, or prepared.

    Args:
        base: Whose weights.
        quantizer: That a prepared base is preferred to have.
    """
    if source := recall_source(base):
        return source
    prepared = [known for known in known_bases() if known.tensors_digest == base.tensors_digest]
    prepared.sort(key=lambda known: known.record is None or known.record.quantizer != quantizer)
    return prepared[0].folder if prepared else None


def place_of_base(
    base: Base, quantizer: PartRef | None, locate: Callable[[str, str | None], Path], *, fix: str
) -> Path:
    """Where the base that an adapter names lies, or where its weights were last seen.

    Args:
        base: As the adapter names it.
        quantizer: That a prepared base is preferred to have.
        locate: Finds a folder or Hub id in a revision.
        fix: What to do where there is none.

    Raises:
        BaseNotFound: It is not on this machine.
    """
    try:
        return locate(base.repo, base.revision)
    except (BaseNotFound, OfflineNotCached) as error:
        if remembered := recall_base(base, quantizer):
            return remembered
        raise BaseNotFound(
            f"the adapter's base {base.repo!r} is neither a folder here nor in the Hub's cache", fix=fix
        ) from error


def recall_source(base: Base) -> Path | None:
    """The folder where the unquantized base with these weights was last seen, if it is still there."""
    folder = _read(_used_path()).get(base.tensors_digest)
    return Path(folder) if folder and Path(folder).is_dir() else find_base(base.tensors_digest)


def known_bases() -> Iterator[KnownBase]:
    """The bases of this machine that are still where they were; nothing is hashed."""
    for digest, folder in sorted(_read(_used_path()).items()):
        if Path(folder).is_dir():
            yield KnownBase(Path(folder), digest, "used")
    for folder in sorted(_read(_prepared_path())):
        with suppress(EdgeloraError):
            if record := prepared_base(Path(folder)):
                yield KnownBase(Path(folder), record.source.tensors_digest, "prepared", record)
    if bases_folder().is_dir():
        for place in sorted(bases_folder().iterdir()):
            if (place / "config.json").is_file() and not place.name.startswith("."):
                yield KnownBase(place, f"sha256:{place.name}", "bundle")


def _used_path() -> Path:
    return cache_dir() / "bases.json"


def _prepared_path() -> Path:
    return cache_dir() / "prepared-bases.json"


def _read(path: Path) -> dict[str, str]:
    try:
        known = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}


def _write(path: Path, known: dict[str, str]) -> None:
    with suppress(OSError, DiskFull):
        atomic_write(path, json.dumps(known, indent=2, sort_keys=True).encode())
