"""The recipe's data files as tokenized rows, split into training and held-out ones."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from edgelora.engine.data.content import Content
from edgelora.engine.data.encode import Encoded, Encoder
from edgelora.engine.data.formats import choose_format, parse_row
from edgelora.engine.data.render import Renderer
from edgelora.engine.data.report import DataReport, SourceReport
from edgelora.engine.data.scan import scan
from edgelora.engine.data.split import choose_held_out, content_hash, split_digest
from edgelora.errors import DataError, PlanError
from edgelora.layers.loss import IGNORED
from edgelora.recipe import DataSource

_ROWS_PER_CHUNK = 1024


@dataclass(frozen=True, slots=True)
class Row:
    """One tokenized row."""

    input_ids: array[int]
    """At most ``max_length`` tokens."""
    labels: array[int]
    """The tokens where they are learned, -100 elsewhere; not shifted."""
    task: int
    """Index into the dataset's ``tasks``."""
    origin: str
    """File and line: ``"train.jsonl:17"``."""
    prompt: str | None
    """Text before the last answer, to be tokenized without adding special tokens; None for text."""
    response: str | None
    """The last answer, without the marks that end a turn; None for text."""


@dataclass(frozen=True, slots=True)
class Dataset:
    """Rows of a run. No content is on both sides."""

    train: list[Row]
    held_out: list[Row]
    tasks: tuple[str, ...]
    report: DataReport
    train_digest: str
    """``sha256:`` of tasks and contents, in order."""
    held_out_digest: str


@dataclass(slots=True)
class _Source:
    """Rows of one file while they are read."""

    name: str
    task: str
    fraction: float
    format: str = "auto"
    rows: list[Row] = field(default_factory=list)
    hashes: list[bytes] = field(default_factory=list)
    read: int = 0
    cut: int = 0
    skipped: int = 0
    longest: int = 0


def load_dataset(
    sources: Sequence[DataSource], tokenizer: Any, *, max_length: int, tasks: Sequence[str] = ()
) -> Dataset:
    """Read, render and tokenize ``sources``, and split them by content.

    A row equal to one that another file holds out is held out too. Held-out rows are kept once per task;
    duplicates stay in training, where repeating a row is a way to weight it.

    Args:
        sources: The recipe's ``data``.
        tokenizer: Of the base model.
        max_length: Longer rows are cut at their end.
        tasks: Names of the tasks by number; those of ``sources``, as they come, when left out.

    Raises:
        PlanError: A source is of a task that ``tasks`` lacks.
        MissingFile: A file does not exist.
        DataError: A file or one of its rows cannot be used, or no row is left to train on.
        ModelError: The tokenizer has no end-of-sequence token.
    """
    tasks = tuple(tasks) or tuple(dict.fromkeys(source.task for source in sources)) or ("main",)
    if strange := [source.task for source in sources if source.task not in tasks]:
        raise PlanError(
            f"the adapter knows no task {strange[0]!r}",
            fix=f"name the data's task as it was in training: {', '.join(tasks)}",
        )
    renderer, encoder = Renderer(tokenizer), Encoder(tokenizer)
    loaded = []
    for source, name in zip(sources, _names(sources), strict=True):
        reading = _Source(name, source.task, source.held_out)
        for chunk in _chunks(_contents(source, reading)):
            texts = [renderer.render(content, origin) for origin, content in chunk]
            for (origin, content), text, encoded in zip(chunk, texts, encoder.encode(texts), strict=True):
                row = _cut(encoded, max_length, reading)
                if row is not None:
                    task = tasks.index(source.task)
                    reading.rows.append(Row(*row, task, origin, text.prompt, text.response))
                    reading.hashes.append(content_hash(content))
        loaded.append(reading)
    return _split(loaded, tasks)


def _contents(source: DataSource, reading: _Source) -> Iterator[tuple[str, Content]]:
    """What each row says, with its origin; the first row decides the format of the file."""
    file_format = None
    for number, row in scan(source.path):
        origin = f"{reading.name}:{number}"
        file_format = file_format or choose_format(row, source.format, origin)
        reading.format = file_format.name
        reading.read += 1
        yield origin, parse_row(row, file_format, origin)
    if not reading.read:
        raise DataError(f"{reading.name} holds no rows", fix="fill it, or take it out of the recipe's data")


def _cut(encoded: Encoded, max_length: int, reading: _Source) -> tuple[array[int], array[int]] | None:
    """Tokens and labels up to ``max_length``, or None where nothing learned is left."""
    length = len(encoded.input_ids)
    reading.longest = max(reading.longest, length)
    labels = encoded.labels[:max_length]
    if all(label == IGNORED for label in labels):
        reading.skipped += 1
        return None
    reading.cut += length > max_length
    return encoded.input_ids[:max_length], labels


def _split(loaded: list[_Source], tasks: tuple[str, ...]) -> Dataset:
    held_hashes = set().union(*(choose_held_out(source.hashes, source.fraction) for source in loaded))
    train: list[tuple[Row, bytes]] = []
    held_out: dict[tuple[int, bytes], Row] = {}
    seen: set[bytes] = set()
    reports = []
    for source in loaded:
        before = len(train), len(held_out)
        duplicates = 0
        for row, digest in zip(source.rows, source.hashes, strict=True):
            duplicates += digest in seen
            seen.add(digest)
            if digest in held_hashes:
                held_out.setdefault((row.task, digest), row)
            else:
                train.append((row, digest))
        reports.append(
            SourceReport(
                path=source.name,
                task=source.task,
                format=source.format,
                rows=source.read,
                train=len(train) - before[0],
                held_out=len(held_out) - before[1],
                cut=source.cut,
                skipped=source.skipped,
                duplicates=duplicates,
                longest=source.longest,
            )
        )
    report = DataReport(tuple(reports))
    if loaded and not train:
        raise DataError(
            f"no row is left to train on: {'; '.join(report.lines())}",
            fix="raise train.max_length or lower held_out",
        )
    return Dataset(
        train=[row for row, _ in train],
        held_out=list(held_out.values()),
        tasks=tasks,
        report=report,
        train_digest=split_digest((tasks[row.task], digest) for row, digest in train),
        held_out_digest=split_digest((tasks[task], digest) for task, digest in held_out),
    )


def _chunks(rows: Iterable[tuple[str, Content]]) -> Iterator[list[tuple[str, Content]]]:
    iterator = iter(rows)
    while chunk := list(islice(iterator, _ROWS_PER_CHUNK)):
        yield chunk


def _names(sources: Sequence[DataSource]) -> list[str]:
    """File names, with their folder where two files have the same one."""
    paths = {source.path for source in sources}
    count = Counter(path.name for path in paths)
    return [
        path.name if count[path.name] == 1 else f"{path.parent.name}/{path.name}"
        for path in (source.path for source in sources)
    ]
