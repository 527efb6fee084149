"""Reading the files of an adapter made elsewhere: plain files only, none longer than it has to be."""

from __future__ import annotations

import os
import re
from io import FileIO
from pathlib import Path

from edgelora.confined import open_regular
from edgelora.errors import MissingFile, NotAdoptable

_BLOB = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_COMMIT = re.compile(r"[0-9a-f]{40}")


def open_source_file(folder: Path, name: str) -> FileIO:
    """Open a file of the folder. No link is followed but those of the Hub's cache into its own blobs.

    Raises:
        MissingFile: There is no such file.
        PathError: It is another link, a directory or a device.
    """
    place = folder.resolve()
    blobs = place.parent.parent / "blobs"
    if repository_of(place) is not None and not blobs.is_symlink():
        target = _link_target(place / name)
        if target is not None and target.parent == blobs and _BLOB.fullmatch(target.name):
            return open_regular(blobs, target.name)
    return open_regular(folder, name)


def read_source_file(folder: Path, name: str, limit: int) -> bytes | None:
    """The bytes of a short file; None where there is none.

    Raises:
        PathError: It is a link, a directory or a device.
        NotAdoptable: It is longer than ``limit`` bytes.
    """
    try:
        file = open_source_file(folder, name)
    except MissingFile:
        return None
    with file:
        size = os.fstat(file.fileno()).st_size
        data = file.read(limit + 1)
    if size > limit or len(data) > limit:
        raise NotAdoptable(
            f"{folder / name} is longer than {limit} bytes", fix="pass the folder of one adapter"
        )
    return data


def repository_of(place: Path) -> tuple[str, str] | None:
    """Owner and name of the repository whose snapshot a folder is, by its place in the Hub's cache."""
    kind, *names = place.parent.parent.name.split("--")
    if place.parent.name != "snapshots" or not _COMMIT.fullmatch(place.name):
        return None
    return (names[0], names[1]) if kind == "models" and len(names) == 2 else None


def _link_target(path: Path) -> Path | None:
    """What a link names, without asking the disk for it; None for what is no link."""
    try:
        return Path(os.path.normpath(path.parent / os.readlink(path)))
    except OSError:
        return None
