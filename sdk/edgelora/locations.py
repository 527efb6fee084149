"""Where edgelora keeps things: ``EDGELORA_HOME``, or the platform's own directories.

Nothing here creates a directory; whoever writes does.
"""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs

_APP = "edgelora"


def home() -> Path:
    """Pulled adapters and the local mirror live here."""
    given = _given_home()
    return given if given else platformdirs.user_data_path(_APP, appauthor=False)


def config_dir() -> Path:
    """Configured stores, and later keys."""
    given = _given_home()
    return given / "config" if given else platformdirs.user_config_path(_APP, appauthor=False)


def cache_dir() -> Path:
    """What can be computed again: digests of base models, prepared bases."""
    given = _given_home()
    return given / "cache" if given else platformdirs.user_cache_path(_APP, appauthor=False)


def _given_home() -> Path | None:
    given = os.environ.get("EDGELORA_HOME")
    return Path(given).expanduser().absolute() if given else None
