"""Of the libraries a run computes with."""

from __future__ import annotations

import importlib.metadata

from edgelora import __version__


def library_versions() -> dict[str, str]:
    """By name; those that are not installed are left out."""
    found = {"edgelora": __version__}
    for name in ("torch", "transformers", "bitsandbytes", "accelerate"):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
