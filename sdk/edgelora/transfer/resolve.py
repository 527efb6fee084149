"""From what a user calls an adapter to a verified folder on this machine."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

from edgelora.errors import MissingFile
from edgelora.manifest import Manifest
from edgelora.signing.trusted import read_trusted
from edgelora.store import is_folder_path, parse_reference
from edgelora.transfer.catalog import find_pulled
from edgelora.transfer.naming import check_identity, telling_of_folder
from edgelora.transfer.pulling import pull


@dataclass(frozen=True, slots=True)
class FoundAdapter:
    """A sound adapter on this machine that the trust policy lets pass."""

    folder: Path
    manifest: Manifest
    digest: str
    """``sha256:`` and the digest of the manifest's bytes."""


def resolve_adapter(adapter: str | Path) -> Path:
    """The folder that `find_adapter` finds."""
    return find_adapter(adapter).folder


def find_adapter(adapter: str | Path) -> FoundAdapter:
    """A verified adapter for a folder, a pulled adapter, or a reference that is then pulled.

    What can be read as a reference is one, even where a folder of that name lies in the working directory:
    ``./ns/name`` is the folder. A reference without a store is looked up among the pulled adapters first;
    without a version, the latest pulled one is taken, so that a machine without a network keeps working with
    what it has. Whatever is found by a reference has the identity that it names.

    Raises:
        MissingFile: A path that does not exist.
        EdgeloraError: What `edgelora.signing.check_trusted` or `pull` finds.
    """
    folder = locate_adapter(adapter)
    data, manifest = read_trusted(folder)
    if isinstance(adapter, str) and not is_folder_path(adapter):
        check_identity(parse_reference(adapter), manifest.identity, folder)
    return FoundAdapter(folder, manifest, f"sha256:{hashlib.sha256(data).hexdigest()}")


def locate_adapter(adapter: str | Path) -> Path:
    """The same folder, not verified: for reports on what is wrong with it."""
    text = os.fspath(adapter)
    folder = Path(text).expanduser()
    if isinstance(adapter, Path) or is_folder_path(text):
        if not folder.is_dir():
            raise MissingFile(
                f"there is no adapter folder {folder}", fix="correct the path, or write ns/name to pull one"
            )
        return folder.absolute()
    with telling_of_folder(text):
        reference = parse_reference(text)
        pulled = find_pulled(reference) if reference.store is None else None
        return pulled or pull(text).folder
