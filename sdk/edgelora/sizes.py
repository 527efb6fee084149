"""Sizes in bytes, as people write them and read them."""

from __future__ import annotations

import re
from fractions import Fraction

UNITS = {
    "": 1, "B": 1,
    "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12,
    "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40,
}  # fmt: skip
"""Bytes of each unit a size can be given in."""
_ANY_CASE = {unit.lower(): size for unit, size in UNITS.items()}
_SIZE = re.compile(r"([0-9]{1,40}(?:\.[0-9]{1,40})?) ?([A-Za-z]*)")


def parse_size(text: str | int) -> int:
    """Bytes of a size such as ``2GiB``, ``1500MiB``, ``8GB`` or a number of bytes; case does not matter.

    Raises:
        ValueError: It is no positive size in a known unit; the text says what is.

    >>> parse_size("1.5GiB")
    1610612736
    """
    found = _SIZE.fullmatch(str(text).strip())
    if isinstance(text, bool) or found is None or found[2].lower() not in _ANY_CASE:
        raise ValueError("a size is a number of bytes or has a unit, as in 2GiB, 1500MiB or 8GB")
    size = round(Fraction(found[1]) * _ANY_CASE[found[2].lower()])
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
