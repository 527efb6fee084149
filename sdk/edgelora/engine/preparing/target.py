"""Which folders a preparation may write to, clear and replace: those that edgelora made, and no others."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path

from edgelora.engine.preparing.names import JOURNAL_NAME, is_ours
from edgelora.errors import TargetExists
from edgelora.prepared import RECORD_NAME


def require_apart(source: Path, folder: Path) -> None:
    """Refuse to write a base over, into or around the model it is made from.

    Raises:
        TargetExists: One of the two folders is the other, or lies in it.
    """
    one, other = source.resolve(), folder.resolve()
    if one == other or one in other.parents or other in one.parents:
        raise TargetExists(
            f"{folder} and the model in {source} would share a folder",
            fix="pass an --out outside the model's folder",
        )


def require_free(folder: Path, *, overwrite: bool) -> None:
    """Refuse to replace what is there; with ``overwrite``, all but a prepared base.

    Raises:
        TargetExists: There is something.
    """
    if not os.path.lexists(folder):
        return
    if not (_is_real(folder, stat.S_ISDIR) and _is_real(folder / RECORD_NAME, stat.S_ISREG)):
        raise TargetExists(
            f"{folder} exists already, and is no prepared base, which --overwrite would replace",
            fix="pass another --out",
        )
    if not overwrite:
        raise TargetExists(f"{folder} exists already", fix="pass --overwrite, or another --out")


def files_left(staging: Path) -> list[Path]:
    """The files that an earlier preparation left in its hidden folder, all of which may be deleted.

    Raises:
        TargetExists: The folder is not one that a preparation left, or holds something else.
    """
    paths = sorted(staging.iterdir()) if _is_real(staging, stat.S_ISDIR) else [staging]
    strange = [path for path in paths if not (_is_real(path, stat.S_ISREG) and is_ours(path.name))]
    # The record is that of a base that was replaced, and whose deletion was stopped.
    marked = any(path.name == RECORD_NAME or JOURNAL_NAME in path.name for path in paths)
    if strange or (paths and not marked):
        raise TargetExists(
            f"{(strange or paths)[0]} is in the place of unfinished work, and no preparation wrote it",
            fix="move it away, or pass another --out",
        )
    return paths


def _is_real(path: Path, kind: Callable[[int], bool]) -> bool:
    """Whether ``path`` is of a kind; a link is neither a folder nor a file."""
    try:
        return kind(path.lstat().st_mode)
    except OSError:
        return False
