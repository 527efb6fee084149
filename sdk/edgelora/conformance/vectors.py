"""Reading the index of each kind of vectors, and placing a vector where a reader can be pointed at it."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgelora.errors import DataError, MissingFile

INDEX_NAME = "index.json"


@dataclass(frozen=True, slots=True)
class Vector:
    """One input with the outcome that the specification gives it."""

    kind: str
    """The folder it is in: ``manifests``, ``weights``, …"""
    name: str
    """Inside that folder."""
    place: Path
    rule: str
    """What it shows, in words."""
    is_accepted: bool
    id: str | None = None
    """Of the error, where it is refused."""
    features: Mapping[str, bool] = field(default_factory=dict)
    """What a reader must know, or must not, for the outcome to hold."""
    make: tuple[Mapping[str, str], ...] = ()
    """What is added to a copy of the folder: things that version control cannot hold."""

    def holds_for(self, features: frozenset[str]) -> bool:
        """Whether the outcome is that of a reader that knows these features."""
        return all((name in features) == known for name, known in self.features.items())


def load_vectors(folder: Path) -> list[Vector]:
    """All vectors below ``folder``, by kind and name.

    Raises:
        MissingFile: There are none.
        DataError: An index is malformed, or names a vector that is not there.
    """
    indexes = sorted(folder.glob(f"*/{INDEX_NAME}"))
    if not indexes:
        raise MissingFile(
            f"there are no conformance vectors in {folder}",
            fix="pass the folder spec/v1/vectors of edgelora's source: --vectors DIR (it is not installed)",
        )
    return [vector for index in indexes for vector in _read_index(index)]


@contextmanager
def placed(vector: Vector) -> Iterator[Path]:
    """Where the vector can be read: in place, or as a copy with what it says to make."""
    if not vector.make:
        yield vector.place
        return
    with tempfile.TemporaryDirectory(prefix="edgelora-vector-") as temporary:
        copy = Path(temporary, vector.kind, vector.name)
        shutil.copytree(vector.place, copy)
        for step in vector.make:
            _make(copy, step)
        yield copy


def _make(folder: Path, step: Mapping[str, str]) -> None:
    name = next((step[what] for what in ("file", "folder", "link", "pipe") if what in step), "")
    # Resolved, because a step before may have made a link.
    if name and not (folder / name).parent.resolve().is_relative_to(folder.resolve()):
        raise DataError(f"{folder.name}: {name!r} would be made outside of the copy", fix="correct the index")
    match step:
        case {"file": name, "text": text}:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text, encoding="utf-8", newline="")
        case {"folder": name}:
            (folder / name).mkdir(parents=True)
        case {"link": name, "to": target}:
            (folder / name).symlink_to(target)
        case {"pipe": name}:
            os.mkfifo(folder / name)
        case _:
            raise DataError(
                f"{folder.name}: nothing is known about making {dict(step)}", fix="correct the index"
            )


def _read_index(path: Path) -> Iterator[Vector]:
    try:
        document = json.loads(path.read_bytes())
        for name, described in document["vectors"].items():
            yield _vector(path.parent, name, described)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"{path} is no index of vectors: {error!r}", fix="write it as spec/README.md says"
        ) from error


def _vector(folder: Path, name: str, described: dict[str, Any]) -> Vector:
    place = folder / name
    if name.startswith("/") or ".." in name.split("/"):
        raise DataError(f"{folder / INDEX_NAME} names {name}, which is outside", fix="correct the index")
    if not place.exists():
        raise DataError(f"{folder / INDEX_NAME} names {name}, which is not there", fix="add it, or its bytes")
    if described["expect"] not in ("accept", "refuse"):
        raise ValueError(f"{name} expects {described['expect']!r}")
    return Vector(
        kind=folder.name,
        name=name,
        place=place,
        rule=described["rule"],
        is_accepted=described["expect"] == "accept",
        id=described.get("id"),
        features=described.get("features", {}),
        make=tuple(described.get("make", ())),
    )
