"""From what a user calls an adapter to a verified folder on this machine."""

from __future__ import annotations

import os
from pathlib import Path

from edgelora.errors import MissingFile
from edgelora.manifest import MANIFEST_NAME
from edgelora.signing.trusted import check_trusted
from edgelora.store import parse_reference
from edgelora.transfer.catalog import find_pulled
from edgelora.transfer.pulling import pull


def resolve_adapter(adapter: str | Path) -> Path:
    """A verified adapter folder for a folder, a pulled adapter, or a reference that is then pulled.

    A reference without a store is looked up among the pulled adapters first; without a version, the latest
    pulled one is taken, so that a machine without a network keeps working with what it has.

    Raises:
        MissingFile: A path that does not exist.
        EdgeloraError: What `edgelora.signing.check_trusted` or `pull` finds.
    """
    folder = locate_adapter(adapter)
    check_trusted(folder)
    return folder


def locate_adapter(adapter: str | Path) -> Path:
    """The same folder, not verified: for reports on what is wrong with it."""
    text = os.fspath(adapter)
    folder = Path(text).expanduser()
    if (folder / MANIFEST_NAME).is_file() or (folder.is_dir() and _is_path(adapter, text)):
        return folder.absolute()
    if _is_path(adapter, text):
        raise MissingFile(
            f"there is no adapter folder {folder}", fix="correct the path, or write ns/name to pull one"
        )
    reference = parse_reference(text)
    pulled = find_pulled(reference) if reference.store is None else None
    return pulled or pull(text).folder


def _is_path(adapter: str | Path, text: str) -> bool:
    return isinstance(adapter, Path) or text.startswith((".", "/", "~"))
