"""Base models that were brought to this machine, found by the digest of their weights."""

from __future__ import annotations

from pathlib import Path

from edgelora.locations import home


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
