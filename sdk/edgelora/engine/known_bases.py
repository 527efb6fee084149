"""Folders of base models this machine has trained on or was brought, so that an adapter finds its base again.

Only a convenience: whatever folder is found here is identified anew before an adapter is applied to it.
"""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path

from edgelora.bases import find_base
from edgelora.errors import DiskFull
from edgelora.files import atomic_write
from edgelora.locations import cache_dir
from edgelora.manifest import Base


def remember_base(base: Base, folder: Path) -> None:
    """Note where a base lies; a cache that cannot be written is left alone."""
    known = _read()
    known[base.tensors_digest] = str(folder)
    with suppress(OSError, DiskFull):
        atomic_write(_path(), json.dumps(known, indent=2, sort_keys=True).encode())


def recall_base(base: Base) -> Path | None:
    """The folder where a base with these weights was last seen, if it is still there."""
    folder = _read().get(base.tensors_digest)
    return Path(folder) if folder and Path(folder).is_dir() else find_base(base.tensors_digest)


def _path() -> Path:
    return cache_dir() / "bases.json"


def _read() -> dict[str, str]:
    try:
        known = json.loads(_path().read_bytes())
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}
