"""Sizes in bytes, as people write them and read them."""

from __future__ import annotations

import re

UNITS = {
    "": 1, "B": 1,
    "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12,
    "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40,
}  # fmt: skip
"""Bytes of each unit a size can be given in."""
_SIZE = re.compile(r"(\d+(?:\.\d+)?) ?([A-Za-z]*)")


def parse_size(text: str | int) -> int:
    """Bytes of a size such as ``2GiB``, ``1500MiB``, ``8GB`` or a number of bytes.

    Raises:
        ValueError: It is no positive size in a known unit; the text says what is.

    >>> parse_size("1.5GiB")
    1610612736
    """
    found = _SIZE.fullmatch(str(text).strip())
    if isinstance(text, bool) or found is None or found[2] not in UNITS:
        raise ValueError("a size is a number of bytes or has a unit, as in 2GiB, 1500MiB or 8GB")
    size = round(float(found[1]) * UNITS[found[2]])
    if size < 1:
        raise ValueError("a size is at least one byte")
    return size


def size_text(size: float) -> str:
    """A size for people, with three digits.

    >>> size_text(1610612736)
    '1.50 GiB'
    """
    for unit in ("TiB", "GiB", "MiB", "KiB"):
        if abs(size) >= UNITS[unit]:
            value = size / UNITS[unit]
            return f"{value:.{max(0, 3 - len(str(int(abs(value)))))}f} {unit}"
    return f"{size:.0f} B"
