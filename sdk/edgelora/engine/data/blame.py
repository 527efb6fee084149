"""The place in a file that Polars refused: its own messages name none."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import NoReturn

from edgelora.errors import DataError


def blame_bytes(path: Path, error: Exception) -> NoReturn:
    """Raise a `DataError` for the first line of ``path`` that is not UTF-8, else for ``error``."""
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                line.decode("utf-8")
            except UnicodeDecodeError as bad:
                raise DataError(
                    f"{path.name}:{number}: byte {bad.start + 1} (0x{line[bad.start]:02x}) is not UTF-8",
                    fix=f"convert the file: iconv -f WINDOWS-1252 -t UTF-8 {path.name}",
                ) from error
    raise DataError(f"{path.name} cannot be read: {error}", fix="check that the file is complete") from error


def blame_table(path: Path, separator: str, error: Exception) -> NoReturn:
    """Raise a `DataError` for the first row of a CSV file that does not fit its header."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = csv.reader(file, delimiter=separator, strict=True)
            names: list[str] = []
            line = 1
            for fields in rows:
                names = names or fields
                if len(fields) > len(names):
                    raise DataError(
                        f"{path.name}:{line}: {len(fields)} fields, and the header names {len(names)}",
                        fix=f'put quotes around a field that holds {separator!r}: "…"',
                    ) from error
                line = rows.line_num + 1
    except UnicodeDecodeError:
        blame_bytes(path, error)
    except csv.Error as bad:
        raise DataError(
            f"{path.name}:{line}: the row that starts here is not valid CSV: {bad}",
            fix='close every quote, and double quotes inside a field: ""',
        ) from error
    blame_bytes(path, error)
