"""Which wheel a distribution was installed from, as far as its installer noted it."""

from __future__ import annotations

import json
import re
from importlib.metadata import PackageNotFoundError
from importlib.metadata import distribution as installed
from typing import Any
from urllib.parse import urlsplit

_SHA256 = re.compile(r"[0-9a-f]{64}")


def wheel_digest(distribution: str) -> str | None:
    """``sha256:`` and 64 hex digits of the wheel; None where nobody noted it.

    Installers note it of what they are given by file or address, and of nothing that comes from an index
    (packaging.python.org/specifications/direct-url).
    """
    try:
        origin = json.loads(installed(distribution).read_text("direct_url.json") or "null")
    except (PackageNotFoundError, OSError, ValueError, RecursionError):
        return None
    try:
        url, sha256 = str(origin["url"]), _sha256(origin["archive_info"])
        is_wheel = urlsplit(url).path.endswith(".whl")
    except (TypeError, KeyError, ValueError, AttributeError):
        return None
    return f"sha256:{sha256}" if is_wheel and _SHA256.fullmatch(sha256) else None


def _sha256(archive: Any) -> str:
    """From ``hashes``, or the older ``hash``."""
    hashes = archive.get("hashes") or {}
    return str(hashes.get("sha256") or str(archive["hash"]).removeprefix("sha256="))
