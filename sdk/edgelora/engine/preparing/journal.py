"""Which shards of a prepared base are finished, so that a killed preparation goes on where it was."""

from __future__ import annotations

import json
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

from edgelora.engine.preparing.names import JOURNAL_NAME
from edgelora.engine.preparing.target import files_left
from edgelora.errors import EdgeloraError
from edgelora.files import atomic_write
from edgelora.manifest.tensor_digest import HashedFile, hash_weights


def write_journal(folder: Path, work: Mapping[str, Any], finished: Mapping[str, HashedFile]) -> None:
    """Note, durably, which shards are finished.

    Args:
        folder: Where they lie.
        work: What is being written: shards of other work are of no use to it.
        finished: With their digests.
    """
    document = {"work": _digest(work), "finished": {name: file.sha256 for name, file in finished.items()}}
    atomic_write(folder / JOURNAL_NAME, json.dumps(document, indent=2).encode())


def take_over(folder: Path, work: Mapping[str, Any]) -> dict[str, HashedFile]:
    """The shards that an earlier try at the same finished, each hashed anew; its other files are deleted.

    Raises:
        TargetExists: Something in ``folder`` is of no preparation.
    """
    left, finished = files_left(folder), {}
    for name, expected in _read(folder / JOURNAL_NAME, work).items():
        try:
            hashed = hash_weights(folder / name, rehash=True)
        except EdgeloraError:
            continue
        if hashed.sha256 == expected:
            finished[name] = hashed
    # Written anew before anything goes: it marks the folder as ours.
    write_journal(folder, work, finished)
    for path in left:
        if path.name not in {JOURNAL_NAME, *finished}:
            path.unlink()
    return finished


def _read(path: Path, work: Mapping[str, Any]) -> dict[str, str]:
    try:
        document = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    match document:
        case {"work": str(digest), "finished": dict(finished)} if digest == _digest(work):
            return {name: value for name, value in finished.items() if Path(name).name == name}
    return {}


def _digest(work: Mapping[str, Any]) -> str:
    return sha256(json.dumps(work, sort_keys=True).encode()).hexdigest()
