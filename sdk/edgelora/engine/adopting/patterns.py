"""PEFT's patterns for the names of modules, as far as they need no regular expressions.

PEFT takes each key for an expression that the end of a name matches, from a dot on. Foreign expressions are
not run: a short one can take for ever. Names, escaped dots, ``.`` for any character and anchors are what is
understood, so every pattern has one length and is compared character by character.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache

_UNDERSTOOD = re.compile(r"\^?(?:[A-Za-z0-9_.-]|\\[._-]){1,512}\$?")
_SYMBOL = re.compile(r"\\?.")


def is_understood(pattern: str) -> bool:
    """Whether a pattern is one that can be compared."""
    return _UNDERSTOOD.fullmatch(pattern) is not None


def matching_key(patterns: Iterable[str], site: str) -> str | None:
    """The first of the patterns that names a site; each is one that `is_understood`."""
    return next((pattern for pattern in patterns if _names(pattern, site)), None)


def _names(pattern: str, site: str) -> bool:
    symbols = _symbols(pattern)
    start = len(site) - len(symbols)
    begins = start == 0 or (start > 0 and site[start - 1] == "." and not pattern.startswith("^"))
    return begins and all(symbol in (None, char) for symbol, char in zip(symbols, site[start:], strict=True))


@lru_cache(maxsize=4096)
def _symbols(pattern: str) -> tuple[str | None, ...]:
    """Its characters, None for any."""
    found = _SYMBOL.findall(pattern.removeprefix("^").removesuffix("$"))
    return tuple(None if symbol == "." else symbol[-1] for symbol in found)
