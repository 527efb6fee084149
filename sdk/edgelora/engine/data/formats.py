"""The five forms a row can have, told apart by its keys, and what each of them says."""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from edgelora.engine.data.content import (
    Completion,
    Content,
    Conversation,
    Instruction,
    Message,
    Text,
    system_turn,
)
from edgelora.errors import DataError

AUTO = "auto"

Row = Mapping[str, Any]

ROLES = {
    "system": "system",
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "model": "assistant",
    "assistant": "assistant",
    "tool": "tool",
    "observation": "tool",
}
"""Names of speakers in the wild, and the chat template's word for each."""


@dataclass(frozen=True, slots=True)
class Format:
    """A form of rows: the keys one must have, and how to read it. Other keys are ignored."""

    name: str
    keys: tuple[str, ...]
    parse: Callable[[Row, str], Content]

    def missing(self, row: Row) -> list[str]:
        """Keys the row lacks; a null counts as lacking."""
        return [key for key in self.keys if row.get(key) is None]


def choose_format(row: Row, name: str, where: str) -> Format:
    """The format called ``name``, or with ``auto`` the first one whose keys ``row`` has.

    Raises:
        DataError: ``name`` is ``auto`` and the row fits no format.
    """
    if name != AUTO:
        return FORMATS[name]
    fitting = _fitting(row)
    if fitting is None:
        raise DataError(
            f"{where}: keys {_keys(row)} fit no format; {_nearest(row)}",
            fix=f"rename the keys, or delete the row; formats: {_overview()}",
        )
    return fitting


def parse_row(row: Row, file_format: Format, where: str) -> Content:
    """What ``row`` says.

    Args:
        row: Keys and values.
        file_format: Of the file: see `choose_format`.
        where: File and line, for errors.

    Raises:
        DataError: The row is of another form, or a value is not text.
    """
    missing = file_format.missing(row)
    if not missing:
        return file_format.parse(row, where)
    other = _fitting(row)
    if other is not None:
        raise DataError(
            f"{where}: keys {_keys(row)} are of format {other.name}; the file is read as {file_format.name}",
            fix=f"move rows of one format to one file, or set format: {other.name} if the whole file is",
        )
    raise DataError(
        f"{where}: keys {_keys(row)} fit no format; {_nearest(row)}; the file is read as {file_format.name}",
        fix=f"add {', '.join(map(repr, missing))} to the row, or delete it",
    )


def _parse_alpaca(row: Row, where: str) -> Instruction:
    return Instruction(
        instruction=_text(row, "instruction", where),
        input=_optional_text(row, "input", where) or "",
        output=_text(row, "output", where),
        system=_optional_text(row, "system", where),
    )


def _parse_sharegpt(row: Row, where: str) -> Conversation:
    return _parse_turns(row, where, turns_key="conversations", role_key="from", content_key="value")


def _parse_messages(row: Row, where: str) -> Conversation:
    return _parse_turns(row, where, turns_key="messages", role_key="role", content_key="content")


def _parse_completion(row: Row, where: str) -> Completion:
    return Completion(_text(row, "prompt", where), _text(row, "completion", where))


def _parse_text(row: Row, where: str) -> Text:
    return Text(_text(row, "text", where))


FORMATS = {
    known.name: known
    for known in (
        Format("messages", ("messages",), _parse_messages),
        Format("sharegpt", ("conversations",), _parse_sharegpt),
        Format("alpaca", ("instruction", "output"), _parse_alpaca),
        Format("prompt-completion", ("prompt", "completion"), _parse_completion),
        Format("text", ("text",), _parse_text),
    )
}
"""By name, in the order ``auto`` tries them: ``text`` last, because many files repeat their rows as text."""


def _parse_turns(row: Row, where: str, *, turns_key: str, role_key: str, content_key: str) -> Conversation:
    turns = row[turns_key]
    if isinstance(turns, str):
        try:
            turns = json.loads(turns)
        except (ValueError, RecursionError) as error:
            raise DataError(
                f"{where}: {turns_key!r} is text but not JSON: {error}", fix=_TURNS_FIX
            ) from error
    if not isinstance(turns, list) or not turns:
        raise DataError(
            f"{where}: {turns_key!r} is {_kind(turns)}, not a list of turns",
            fix=f'write [{{"{role_key}": "...", "{content_key}": "..."}}, ...]',
        )
    messages = list(system_turn(_optional_text(row, "system", where)))
    for number, turn in enumerate(turns, start=1):
        place = f"{where}: turn {number}"
        if not isinstance(turn, dict) or turn.get(role_key) is None or turn.get(content_key) is None:
            seen = _keys(turn) if isinstance(turn, dict) else _kind(turn)
            raise DataError(f"{place}: {seen} found, {role_key!r} and {content_key!r} needed", fix=_TURNS_FIX)
        role = ROLES.get(str(turn[role_key]).lower())
        if role is None:
            raise DataError(
                f"{place}: unknown speaker {turn[role_key]!r}", fix=f"use one of: {', '.join(ROLES)}"
            )
        messages.append(Message(role, _text({content_key: _joined(turn[content_key])}, content_key, place)))
    return Conversation(tuple(messages))


_TURNS_FIX = "correct the turn, or delete the row"


def _joined(content: Any) -> Any:
    """Parts such as ``{"type": "text", "text": ...}`` as one text; anything else unchanged."""
    if isinstance(content, list) and all(isinstance(part, dict) for part in content):
        texts = [part.get("text") for part in content if part.get("type") == "text"]
        if len(texts) == len(content) and all(isinstance(text, str) for text in texts):
            return "".join(str(text) for text in texts)
    return content


def _optional_text(row: Row, key: str, where: str) -> str | None:
    return None if row.get(key) is None else _text(row, key, where)


def _text(row: Row, key: str, where: str) -> str:
    value = row[key]
    if not isinstance(value, str):
        raise DataError(
            f"{where}: {key!r} is {_kind(value)}, not text", fix='put it in quotes, as in "9.10" for 9.10'
        )
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise DataError(
            f"{where}: {key!r} holds half of a character: \\u{ord(value[error.start]):04x} alone",
            fix="correct the escape in this row",
        ) from error
    return value


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", bool: "true or false", int: "a number", float: "a number"}
    return names.get(type(value), type(value).__name__)


def _fitting(row: Row) -> Format | None:
    return next((known for known in FORMATS.values() if not known.missing(row)), None)


def _nearest(row: Row) -> str:
    def likeness(known: Format) -> float:
        ratios = [
            max((difflib.SequenceMatcher(None, key, seen.lower()).ratio() for seen in row), default=0.0)
            for key in known.keys
        ]
        return sum(ratios) / len(ratios)

    nearest = max(FORMATS.values(), key=likeness)
    return f"nearest is {nearest.name} (missing {', '.join(map(repr, nearest.missing(row)))})"


def _keys(row: Row) -> str:
    shown = list(row)[:12]
    return f"[{', '.join(map(repr, shown))}{', …' if len(row) > len(shown) else ''}]"


def _overview() -> str:
    return ", ".join(f"{known.name} ({', '.join(known.keys)})" for known in FORMATS.values())
