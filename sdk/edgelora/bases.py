"""Base models on this machine: brought here and found by the digest of their weights, or named by folder."""

from __future__ import annotations

import os
from pathlib import Path

from edgelora import micro
from edgelora.errors import BaseNotFound
from edgelora.locations import home
from edgelora.prepared import PreparedBase, prepared_base


def bases_folder() -> Path:
    """Each base lies here under the 64 digits of its ``tensorsDigest``."""
    return home() / "bases"


def base_place(tensors_digest: str) -> Path:
    """Where the base with these weights lies, or would."""
    return bases_folder() / tensors_digest.removeprefix("sha256:")


def find_base(tensors_digest: str) -> Path | None:
    """The folder of a base that was brought here; whoever uses it identifies it anew."""
    place = base_place(tensors_digest)
    return place if (place / "config.json").is_file() else None


def base_folder(base: str) -> Path:
    """The folder of a base that is named as ``micro``, by its folder, or by its ``tensorsDigest``.

    Raises:
        BaseNotFound: It is none of these.
    """
    if base == "micro":
        return micro.path()
    folder = find_base(base) if base.startswith("sha256:") else expanded(base)
    if folder is None or not folder.is_dir():
        raise BaseNotFound(
            f"there is no base model folder {base}", fix="pass a folder; see: edgelora bases list"
        )
    return folder.absolute()


def is_folder(base: str) -> bool:
    """Whether what a recipe's ``base`` names is in a folder here; what only transformers finds is not."""
    try:
        return base_folder(base).is_dir()
    except BaseNotFound:
        return False


def expanded(base: str) -> Path:
    """The path of a base; a ``~`` of somebody who has no home here stays."""
    return Path(os.path.expanduser(base))


def is_path(base: str) -> bool:
    """Whether what a recipe's ``base`` names is a path for sure: a Hub id has one slash at most."""
    return base.startswith((".", "/", "~")) or base.count("/") > 1


def no_folder(base: str) -> BaseNotFound:
    """That there is no base at a path."""
    return BaseNotFound(f"there is no base model folder {base}", fix="pass another folder, or use 'micro'")


def prepared_at(base: str) -> PreparedBase | None:
    """The record of the prepared base that a recipe's ``base`` names; None where it names another base.

    Raises:
        EdgeloraError: The folder has a record that cannot be used.
    """
    try:
        return prepared_base(base_folder(base))
    except BaseNotFound:
        return None
