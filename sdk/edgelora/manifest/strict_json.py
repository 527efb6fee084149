"""JSON with one meaning: what two parsers could read differently is refused.

Refused are a byte-order mark, other encodings than UTF-8, duplicate keys, NaN and infinities, numbers with a
fraction or exponent, integers beyond ±(2^53 - 1), lone surrogates, control characters and deep nesting.
"""

from __future__ import annotations

import json
from typing import Any, NoReturn

from edgelora.manifest.fields import MAX_INTEGER

MAX_DEPTH = 32
_MAX_DIGITS = len(str(MAX_INTEGER))
_CONTROL = frozenset(map(chr, [*range(0x20), 0x7F])) - frozenset("\t\n")


class NotStrict(ValueError):
    """The bytes are no JSON, or break a rule of strict JSON; the message says which."""


def parse(data: bytes, *, max_depth: int = MAX_DEPTH) -> Any:
    """The value of a strict JSON document.

    Raises:
        NotStrict: A rule is broken.
    """
    if data.startswith(b"\xef\xbb\xbf"):
        raise NotStrict("it starts with a byte-order mark")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise NotStrict(f"it is not UTF-8: {error.reason} at byte {error.start}") from error
    try:
        value = json.loads(
            text,
            object_pairs_hook=_unique,
            parse_constant=_refuse_constant,
            parse_float=_refuse_fraction,
            parse_int=_bounded_integer,
        )
    except json.JSONDecodeError as error:
        raise NotStrict(
            f"it is not JSON: {error.msg} at line {error.lineno}, column {error.colno}"
        ) from error
    except RecursionError as error:
        raise NotStrict(f"it is nested deeper than {max_depth} levels") from error
    # Without an escape a string can hold no other control character than this: JSON itself takes none.
    _check(value, max_depth, max_depth, texts="\\" in text or "\x7f" in text)
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise NotStrict(f"the key {ascii(twice)[:100]} occurs twice in one object")
    return result


def _refuse_constant(name: str) -> NoReturn:
    raise NotStrict(f"it holds {name}, which is not a JSON number")


def _refuse_fraction(digits: str) -> NoReturn:
    raise NotStrict(f"it holds the number {digits[:40]}; a number that is no integer is written as a string")


def _bounded_integer(digits: str) -> int:
    if len(digits.lstrip("-")) <= _MAX_DIGITS:
        value = int(digits)
        if abs(value) <= MAX_INTEGER:
            return value
    raise NotStrict(f"the integer {digits[:40]} is beyond ±(2^53 - 1)")


def _check(value: Any, levels_left: int, max_depth: int, *, texts: bool) -> None:
    """Refuse what is nested too deep, and, where ``texts``, strings that hold what they must not."""
    if isinstance(value, str):
        if texts:
            _check_text(value)
    elif isinstance(value, dict | list):
        if levels_left == 0:
            raise NotStrict(f"it is nested deeper than {max_depth} levels")
        if texts and isinstance(value, dict):
            for key in value:
                _check_text(key)
        for item in value.values() if isinstance(value, dict) else value:
            if not isinstance(item, int):
                _check(item, levels_left - 1, max_depth, texts=texts)


def _check_text(text: str) -> None:
    if not _CONTROL.isdisjoint(text):
        raise NotStrict(f"the string {ascii(text)[:60]} holds a control character")
    if not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text):
        raise NotStrict(f"the string {ascii(text)[:60]} holds half of a surrogate pair")
