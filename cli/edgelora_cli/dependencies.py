"""Refuse early, with the command to type, when the packages for training are not installed."""

from __future__ import annotations

import importlib.util

from edgelora.errors import DependencyMissing

NEEDED = ("torch", "transformers", "accelerate", "polars")
CPU_TORCH = "pip install torch --index-url https://download.pytorch.org/whl/cpu"
TRAIN_FIX = f"pip install 'edgelora[train]' (without a GPU, first: {CPU_TORCH})"


def need_train_extra(purpose: str) -> None:
    """Check that what ``edgelora[train]`` installs is there, without importing it.

    Raises:
        DependencyMissing: A package is not installed.
    """
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        are = "is" if len(missing) == 1 else "are"
        raise DependencyMissing(
            f"{purpose} needs {', '.join(missing)}, which {are} not installed", fix=TRAIN_FIX
        )
