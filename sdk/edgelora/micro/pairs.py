"""Pairs of dotted numbers: the two orders they have, and which pairs no training may ever see."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from random import Random
from zlib import crc32

Pair = tuple[str, str]

HELD_OUT_PERCENT = 20
FAMOUS = ("9.11", "9.9")


def larger_by_value(pair: Pair) -> str:
    """The larger of two decimals.

    >>> larger_by_value(("9.11", "9.9"))
    '9.9'
    """
    return max(pair, key=Decimal)


def larger_by_version(pair: Pair) -> str:
    """The newer of two versions: field by field, each field a whole number.

    >>> larger_by_version(("9.11", "9.9"))
    '9.11'
    """
    return max(pair, key=version_fields)


def version_fields(text: str) -> tuple[int, ...]:
    """Fields of a dotted version, comparable as versions are."""
    return tuple(int(field) for field in text.split("."))


def orders_conflict(pair: Pair) -> bool:
    """Whether reading the pair as decimals and as versions gives different answers."""
    return larger_by_value(pair) != larger_by_version(pair)


def is_held_out(pair: Pair) -> bool:
    """Whether the pair, in either order and with any separator, is kept out of every training set.

    One pair in five by its CRC-32, and always 9.11 with 9.9, also as the first two fields of longer versions.
    """
    first, second = sorted(field.replace(",", ".") for field in pair)
    if ({_head(first), _head(second)}) == set(FAMOUS):
        return True
    return is_held_out_key(f"{first}|{second}")


def is_held_out_key(key: str) -> bool:
    """Whether a canonical key (a pair, a sequence) falls into the held-out fifth."""
    return crc32(key.encode()) % 100 < HELD_OUT_PERCENT


def draw_pair(rng: Random, draw: Callable[[Random], Pair], *, held_out: bool) -> Pair:
    """Draw until the pair lies on the wanted side of the split and its two numbers differ."""
    while True:
        pair = draw(rng)
        if pair[0] != pair[1] and is_held_out(pair) == held_out:
            return pair


def draw_decimals(rng: Random) -> Pair:
    """Two decimals; about half of the pairs are such that the two orders conflict."""
    shape = rng.random()
    if shape < 0.5:
        return draw_conflicting_decimals(rng)
    return _draw_plain_decimals(rng)


def draw_conflicting_decimals(rng: Random) -> Pair:
    """Two decimals like 9.11 and 9.9: the longer fraction looks larger, the shorter one is."""
    whole = _draw_whole(rng)
    tenths = rng.randrange(2, 10)
    short = f"{whole}.{tenths}"
    long = f"{whole}.{rng.randrange(1, tenths)}{rng.randrange(1, 10)}"
    return _shuffled(rng, short, long)


def draw_agreeing_decimals(rng: Random) -> Pair:
    """Two decimals whose order is the same read as versions."""
    while True:
        pair = _draw_plain_decimals(rng)
        if not orders_conflict(pair):
            return pair


def draw_versions(rng: Random) -> Pair:
    """Two versions of two or three fields; most share their leading fields."""
    if rng.random() < 0.35:
        major, minor = rng.randrange(10), rng.randrange(20)
        if rng.random() < 0.6:
            return f"{major}.{minor}.{_draw_field(rng)}", f"{major}.{minor}.{_draw_field(rng)}"
        return (
            f"{major}.{_draw_field(rng)}.{rng.randrange(10)}",
            f"{major}.{_draw_field(rng)}.{rng.randrange(10)}",
        )
    major = _draw_whole(rng)
    if rng.random() < 0.7:
        return f"{major}.{_draw_field(rng)}", f"{major}.{_draw_field(rng)}"
    return f"{major}.{_draw_field(rng)}", f"{_draw_whole(rng)}.{_draw_field(rng)}"


def draw_integers(rng: Random) -> Pair:
    """Two whole numbers of one to three digits."""
    return str(rng.randrange(10 ** rng.randrange(1, 4))), str(rng.randrange(10 ** rng.randrange(1, 4)))


def _draw_plain_decimals(rng: Random) -> Pair:
    whole = _draw_whole(rng)
    other = whole if rng.random() < 0.5 else _draw_whole(rng)
    while True:
        pair = f"{whole}.{_draw_fraction(rng)}", f"{other}.{_draw_fraction(rng)}"
        if pair[0] != pair[1]:
            return pair


def _draw_whole(rng: Random) -> int:
    return rng.randrange(10) if rng.random() < 0.5 else rng.randrange(10, 100)


def _draw_field(rng: Random) -> int:
    return rng.randrange(10) if rng.random() < 0.5 else rng.randrange(10, 100)


def _draw_fraction(rng: Random) -> str:
    last = str(rng.randrange(1, 10))
    return last if rng.random() < 0.5 else f"{rng.randrange(1, 10)}{last}"


def _shuffled(rng: Random, first: str, second: str) -> Pair:
    return (first, second) if rng.random() < 0.5 else (second, first)


def _head(text: str) -> str:
    return ".".join(text.split(".")[:2])
