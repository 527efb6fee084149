"""Rows of CSV, TSV and parquet files. A row is given without the columns it leaves empty."""

from __future__ import annotations

import codecs
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import polars as pl

from edgelora.engine.data.blame import blame_table
from edgelora.errors import DataError

_ROWS_PER_BATCH = 4096
_SEPARATORS = (",", ";", "\t")


def scan_csv(path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Rows by the line they start on; the header decides between ``,``, ``;`` and tab.

    Every column is read as text, so that ``9,11`` and ``3.10`` stay what they are.
    """
    _, header = _header(path)
    yield from _scan_separated(path, max(_SEPARATORS, key=lambda mark: header.count(mark.encode())))


def scan_tsv(path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Rows of a tab-separated file by the line they start on."""
    yield from _scan_separated(path, "\t")


def scan_parquet(path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Rows by number, counted from 1."""
    number = 0
    try:
        table = pl.scan_parquet(path, glob=False)
        names = table.collect_schema().names()
        for batch in table.collect_batches(chunk_size=_ROWS_PER_BATCH, maintain_order=True):
            for values in batch.iter_rows():
                number += 1
                yield number, _filled(names, values)
    except pl.exceptions.PolarsError as error:
        raise DataError(
            f"{path.name} is not a parquet file Polars reads: {error}", fix="check that the file is complete"
        ) from error


def _scan_separated(path: Path, separator: str) -> Iterator[tuple[int, Mapping[str, Any]]]:
    try:
        table = pl.scan_csv(path, separator=separator, infer_schema=False, glob=False)
        names = table.collect_schema().names()
        # A field may span lines, and Polars gives an empty line as a row of nulls: so lines can be counted.
        line = _header(path)[0] + 1 + sum(name.count("\n") for name in names)
        for batch in table.collect_batches(chunk_size=_ROWS_PER_BATCH, maintain_order=True):
            for values in batch.iter_rows():
                row = _filled(names, values)
                if row:
                    yield line, row
                line += 1 + sum(value.count("\n") for value in row.values())
    except pl.exceptions.NoDataError:
        return
    except pl.exceptions.PolarsError as error:
        blame_table(path, separator, error)


def _filled(names: list[str], values: tuple[Any, ...]) -> dict[str, Any]:
    return {name.strip(): value for name, value in zip(names, values, strict=True) if value is not None}


def _header(path: Path) -> tuple[int, bytes]:
    """The first line that is not empty, with its number."""
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if line.removeprefix(codecs.BOM_UTF8).strip(b"\r\n"):
                return number, line
    return 0, b""
