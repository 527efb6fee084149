"""Rows of a data file, each with the number of the line it starts on (of the row, for parquet).

Polars does the reading. Rows of JSON are then parsed one by one instead of by `polars.scan_ndjson`, which
gives a file one schema: it would turn 9.10 into the number 9.1, fill keys a row lacks with null, and lose the
line of a row it cannot place, and those three are what a message about a bad row is made of.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import polars as pl

from edgelora.engine.data.blame import blame_bytes
from edgelora.engine.data.tables import scan_csv, scan_parquet, scan_tsv
from edgelora.errors import DataError, MissingFile

NumberedRow = tuple[int, Mapping[str, Any]]

_ROWS_PER_BATCH = 4096


def scan(path: Path) -> Iterator[NumberedRow]:
    """Rows of ``path`` in order, with their numbers counted from 1.

    Raises:
        MissingFile: There is no such file.
        DataError: It is of an unknown type, not UTF-8, or not what its suffix says.
    """
    if not path.exists():
        raise MissingFile(
            f"there is no data file {path}",
            fix="correct the path under data; relative paths start at the recipe's folder",
        )
    reader = _READERS.get(path.suffix.lower())
    if reader is None or not path.is_file():
        raise DataError(
            f"{path.name} is not a data file edgelora reads",
            fix=f"use a file ending in {', '.join(_READERS)}",
        )
    try:
        yield from reader(path)
    except OSError as error:
        raise DataError(f"{path.name} cannot be read: {error}", fix="check the file's permissions") from error


def _scan_jsonl(path: Path) -> Iterator[NumberedRow]:
    lines = pl.scan_lines(path, name="text", row_index_name="line", row_index_offset=1, glob=False)
    try:
        for batch in lines.collect_batches(chunk_size=_ROWS_PER_BATCH, maintain_order=True):
            for number, text in batch.select("line", "text").iter_rows():
                if number == 1:
                    text = text.removeprefix("\ufeff")
                if text and not text.isspace():
                    yield number, _parse_row(text, f"{path.name}:{number}")
    except pl.exceptions.PolarsError as error:
        blame_bytes(path, error)


def _scan_json(path: Path) -> Iterator[NumberedRow]:
    """Elements of a JSON array; a file of one JSON object per line is accepted under this name too."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        blame_bytes(path, error)
    position = _skip_space(text, 0)
    if text.startswith("{", position):
        yield from _scan_jsonl(path)
        return
    if position == len(text):
        return
    if text[position] != "[":
        raise DataError(
            f"{path.name}:{_line(text, position)}: expected '[' and found {text[position]!r}",
            fix="write a JSON array of objects, or one object per line in a .jsonl file",
        )
    yield from _array_elements(text, position + 1, path.name)


def _array_elements(text: str, position: int, name: str) -> Iterator[NumberedRow]:
    decoder = json.JSONDecoder()
    line, counted = 1, 0
    position = _skip_space(text, position)
    while not text.startswith("]", position):
        line, counted = line + text.count("\n", counted, position), position
        where = f"{name}:{line}"
        try:
            row, position = decoder.raw_decode(text, position)
        except (ValueError, RecursionError) as error:
            raise _not_json(where, error) from error
        yield line, _as_object(row, where)
        position = _skip_space(text, position)
        if text.startswith(",", position):
            position = _skip_space(text, position + 1)
        elif not text.startswith("]", position):
            raise DataError(
                f"{name}:{_line(text, position)}: the array is not closed after this element",
                fix="separate elements by ',' and end the file with ']'",
            )


def _parse_row(text: str, where: str) -> Mapping[str, Any]:
    try:
        row = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _not_json(where, error) from error
    return _as_object(row, where)


def _not_json(where: str, error: Exception) -> DataError:
    reason = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
    return DataError(f"{where}: not valid JSON: {reason}", fix="correct or delete this row")


def _as_object(row: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(row, dict):
        raise DataError(
            f"{where}: the row is {json.dumps(row, ensure_ascii=False)[:60]}, not an object with keys",
            fix='write each row as an object, such as {"instruction": "...", "output": "..."}',
        )
    return row


def _skip_space(text: str, position: int) -> int:
    while position < len(text) and text[position] in " \t\r\n":
        position += 1
    return position


def _line(text: str, position: int) -> int:
    return text.count("\n", 0, position) + 1


_READERS: dict[str, Callable[[Path], Iterator[NumberedRow]]] = {
    ".jsonl": _scan_jsonl,
    ".ndjson": _scan_jsonl,
    ".json": _scan_json,
    ".parquet": scan_parquet,
    ".csv": scan_csv,
    ".tsv": scan_tsv,
}
