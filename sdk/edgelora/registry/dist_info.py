"""Finding distributions by what their ``entry_points.txt`` mentions, without importing `importlib.metadata`.

Importing `importlib.metadata` and scanning with it takes longer than all else ``edgelora plugins list`` does.
Both files read here have simple, specified forms: the entry points file (packaging.python.org/specifications/
entry-points) and the core metadata, which begins with lines ``Key: value``.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib.machinery import PathFinder
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from importlib.metadata import Distribution

_UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class DistInfo:
    """What an installed distribution says about itself.

    Attributes:
        name: As its author writes it; from the name of its folder where its metadata cannot be read.
        version: From the same place; ``"unknown"`` where there is none.
        entry_points: Text of its ``entry_points.txt``.
    """

    name: str
    version: str
    entry_points: str


def distributions_mentioning(text: str) -> Iterator[DistInfo]:
    """Distributions on ``sys.path`` whose ``entry_points.txt`` contains ``text``, in the order of the path.

    Those that live in no folder (in a zip file, or with an import system of their own) are found by
    `importlib.metadata`. One whose entry points cannot be read or are not UTF-8 is left out.
    """
    for finder in sys.meta_path:
        if finder is PathFinder:
            for entry in sys.path:
                yield from _in_path_entry(entry, text)
        elif hasattr(finder, "find_distributions"):
            yield from _elsewhere(finder.find_distributions(), text)


def entry_points(text: str, group: str) -> list[tuple[str, str]]:
    """Name and target of each entry point of a group, in order.

    Raises:
        ValueError: A line of the group is not of the form ``name = target``.
    """
    found = []
    section = ""
    for line in map(str.strip, text.splitlines()):
        if line.startswith("[") and line.endswith("]"):
            section = line.strip("[]")
        elif section == group and line and not line.startswith("#"):
            name, equals, target = line.partition("=")
            if not equals:
                raise ValueError(f"{line!r} is not of the form 'name = module'")
            found.append((name.strip(), target.strip()))
    return found


def _in_path_entry(entry: str, text: str) -> Iterator[DistInfo]:
    try:
        children = sorted(os.listdir(entry or "."))
    except NotADirectoryError:
        yield from _in_file(entry, text)
        return
    except OSError:
        return
    is_egg = entry.lower().rstrip("/\\").endswith(".egg")
    for child in children:
        lowered = child.lower()
        if lowered.endswith((".dist-info", ".egg-info")) or (is_egg and lowered == "egg-info"):
            folder = os.path.join(entry, child)
            found = _read(os.path.join(folder, "entry_points.txt"))
            if text in found:
                metadata = _read(os.path.join(folder, "METADATA")) or _read(os.path.join(folder, "PKG-INFO"))
                yield _dist_info(metadata, found, os.path.splitext(child)[0])


def _in_file(entry: str, text: str) -> Iterator[DistInfo]:
    from importlib.metadata import DistributionFinder

    yield from _elsewhere(PathFinder.find_distributions(DistributionFinder.Context(path=[entry])), text)


def _elsewhere(distributions: Iterable[Distribution], text: str) -> Iterator[DistInfo]:
    for distribution in distributions:
        try:
            found = distribution.read_text("entry_points.txt") or ""
            if text in found:
                metadata = distribution.read_text("METADATA") or distribution.read_text("PKG-INFO") or ""
                yield _dist_info(metadata, found)
        except (OSError, ValueError):
            continue


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8") as file:
            return file.read()
    except (OSError, ValueError):
        # Not there, not readable or not UTF-8.
        return ""


def _dist_info(metadata: str, entry_points: str, folder: str = "") -> DistInfo:
    name, _, version = folder.partition("-")
    headers: dict[str, str] = {}
    for line in metadata.splitlines():
        if not line:
            break
        key, _, value = line.partition(":")
        headers.setdefault(key.lower(), value.strip())
    return DistInfo(
        headers.get("name") or name or _UNKNOWN,
        headers.get("version") or version or _UNKNOWN,
        entry_points,
    )
