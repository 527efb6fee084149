"""The adapters on this machine: where a pull puts them, and what it notes about each."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from edgelora.confined import read_regular
from edgelora.errors import EdgeloraError
from edgelora.files import atomic_write, exclusive_lock, fsync_dir, make_dirs
from edgelora.locations import home
from edgelora.manifest import MANIFEST_NAME, MAX_MANIFEST_BYTES
from edgelora.store import Reference, sort_versions
from edgelora.store.repository import names
from edgelora.store.versions import is_version

_MAX_NOTE_BYTES = 64 * 2**10


@dataclass(frozen=True, slots=True)
class Note:
    """What is known about a folder because it was pulled. Kept beside the adapters, never inside one."""

    folder: str
    reference: str
    store: str
    commit: str
    manifest_digest: str


def shelf() -> Path:
    """Pulled adapters lie here, as ``ns/name/version``."""
    return home() / "adapters"


def place_of(reference: Reference) -> Path:
    """Where a version is pulled to if no other folder is named."""
    return shelf() / reference.namespace / reference.name / str(reference.version)


def staging_of(target: Path) -> Path:
    """Where a pull into ``target`` gathers the files: beside it, so that one rename puts it in place."""
    return target.parent / f".{target.name}.pulling"


def pulled_versions(namespace: str, name: str) -> list[str]:
    """Versions on the shelf, the lowest first."""
    return sort_versions(filter(is_version, names(shelf() / namespace / name)))


def pulled_folders() -> list[Path]:
    """Every pulled adapter: those on the shelf, and those pulled into a folder of the user's choice."""
    on_shelf = {
        shelf() / namespace / name / version
        for namespace in names(shelf())
        for name in names(shelf() / namespace)
        for version in pulled_versions(namespace, name)
    }
    noted = (read_note(path) for path in _notes().glob("*.json"))
    elsewhere = {Path(note.folder) for note in noted if note and manifest_digest(Path(note.folder))}
    return sorted(on_shelf | elsewhere)


@contextmanager
def lock_folder(target: Path) -> Iterator[None]:
    """Keep other pulls and removals of the same folder waiting."""
    with exclusive_lock(home() / "locks" / f"{_key(target)}.lock"):
        yield


def write_note(note: Note) -> None:
    """Remember where a folder came from."""
    data = json.dumps(asdict(note), sort_keys=True, indent=1) + "\n"
    atomic_write(_notes() / f"{_key(Path(note.folder))}.json", data.encode())


def note_of(target: Path) -> Note | None:
    """What was noted when this folder was pulled."""
    return read_note(_notes() / f"{_key(target)}.json")


def read_note(path: Path) -> Note | None:
    """One note; None where there is none that can be read."""
    try:
        return Note(**json.loads(read_regular(path.parent, path.name, limit=_MAX_NOTE_BYTES)))
    except (EdgeloraError, OSError, ValueError, TypeError):
        return None


def manifest_digest(folder: Path) -> str | None:
    """``sha256:`` and the digest of the manifest's bytes; None where there is no manifest."""
    try:
        data = read_regular(folder, MANIFEST_NAME, limit=MAX_MANIFEST_BYTES)
    except (EdgeloraError, OSError):
        return None
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def may_replace(target: Path) -> bool:
    """Whether a folder was pulled and its manifest was not changed since, or is on the shelf anyway."""
    if shelf() in target.parents:
        return True
    note = note_of(target)
    return note is not None and note.manifest_digest == manifest_digest(target)


def remove_folder(target: Path) -> None:
    """Take a pulled adapter away: out of sight in one step, then its bytes."""
    with lock_folder(target):
        staging = staging_of(target)
        if staging.is_dir() and not staging.is_symlink():
            shutil.rmtree(staging)
        make_dirs(staging)
        os.rename(target, staging / "adapter")
        fsync_dir(target.parent)
        (_notes() / f"{_key(target)}.json").unlink(missing_ok=True)
        shutil.rmtree(staging)


def _notes() -> Path:
    return home() / "pulled"


def _key(target: Path) -> str:
    return hashlib.sha256(os.fsencode(os.path.realpath(target))).hexdigest()[:32]
