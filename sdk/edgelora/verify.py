"""Does an adapter directory hold exactly what its manifest says, and nothing that could do harm?

No torch, no network, and no trust in the content: a directory made by an enemy gives findings, never an
exception of another kind.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from io import BufferedReader, BytesIO
from pathlib import Path
from typing import BinaryIO, Literal

from edgelora.confined import open_regular, read_regular
from edgelora.errors import (
    DigestMismatch,
    EdgeloraError,
    FileSetMismatch,
    ManifestError,
    MissingFile,
    PathError,
    TensorsMismatch,
    UnsafeFile,
    every_error,
)
from edgelora.manifest.lora_shapes import misfit_of
from edgelora.manifest.models import MANIFEST_NAME, SAFETENSORS_TYPE, FileEntry, Manifest, is_unlisted
from edgelora.manifest.paths import check_path
from edgelora.manifest.pickles import HEAD_BYTES, is_program, reason_to_refuse
from edgelora.manifest.reader import MAX_MANIFEST_BYTES, parse_manifest
from edgelora.manifest.tensors import TensorEntry, header_of, summary_of
from edgelora.manifest.tree import kind_of, walk

Severity = Literal["error", "warning"]
_FETCH_AGAIN = "fetch the adapter again; if it is yours, pack it again"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong with an adapter directory."""

    id: str
    """Of the error that `check` raises for it."""
    path: str
    """Inside the directory; empty for the directory itself."""
    problem: str
    severity: Severity = "error"
    fix: str = _FETCH_AGAIN


def verify(folder: Path) -> list[Finding]:
    """Everything that is wrong with an adapter directory, the manifest first; empty if it is sound."""
    return _inspect(folder)[1]


def check(folder: Path) -> Manifest:
    """The manifest of a sound adapter directory.

    Raises:
        EdgeloraError: The first finding of severity ``error``, as the class of its id: ``MissingFile``,
            ``ManifestError``, ``PathError``, ``UnsafeFile``, ``FileSetMismatch``, ``DigestMismatch``, …
    """
    return _sound(folder, *_inspect(folder))


def check_and_read(folder: Path) -> tuple[Manifest, dict[str, bytes]]:
    """As `check`, with the bytes of the manifest that was parsed and of the listed weights that were hashed.

    By path; one reading less than `check` and `read_verified`, for whoever needs the weights anyway.

    Raises:
        EdgeloraError: As `check`.
    """
    kept: dict[str, bytes] = {}
    return _sound(folder, *_inspect(folder, kept)), kept


def _sound(folder: Path, manifest: Manifest | None, findings: list[Finding]) -> Manifest:
    for finding in findings:
        if finding.severity == "error":
            kind = next(kind for kind in every_error() if kind.id == finding.id)
            raise kind(finding.problem, fix=finding.fix)
    if manifest is None:
        raise ManifestError(f"{folder} holds no readable manifest", fix=_FETCH_AGAIN)
    return manifest


def read_verified(folder: Path, manifest: Manifest, path: str) -> bytes:
    """The bytes of a listed file, read once: those returned are those hashed, whatever the disk does next.

    Args:
        folder: The adapter directory.
        manifest: As `check` returned it.
        path: Of the file, as the manifest lists it.

    Raises:
        FileSetMismatch: The manifest does not list the file, or it is not there or cannot be read.
        DigestMismatch: It has another size or digest than the manifest says.
        PathError: It is no regular file, or lies behind a link.
    """
    entry = next((entry for entry in manifest.files if entry.path == path), None)
    if entry is None:
        raise FileSetMismatch(f"{path} is not listed in the manifest", fix="pack the adapter again")
    try:
        with _open(folder, path) as file:
            _compare_size(os.fstat(file.fileno()).st_size, entry)
            # One byte more than listed, so that a file that grows meanwhile is noticed.
            data = file.read(entry.size + 1)
    except MissingFile as error:
        raise FileSetMismatch(f"{path} is listed in the manifest and not there", fix=_FETCH_AGAIN) from error
    except OSError as error:
        raise _unreadable(path, error) from error
    _compare_size(len(data), entry)
    _compare_digest(hashlib.sha256(data).hexdigest(), entry)
    return data


def _inspect(folder: Path, kept: dict[str, bytes] | None = None) -> tuple[Manifest | None, list[Finding]]:
    """What is wrong with a folder; ``kept`` is given the bytes of its listed safetensors files."""
    try:
        manifest = _manifest_of(folder, kept)
    except EdgeloraError as error:
        return None, [_finding(MANIFEST_NAME if folder.is_dir() else "", error)]
    try:
        return manifest, list(_findings(folder, manifest, kept))
    except OSError as error:
        problem = FileSetMismatch(f"{folder} cannot be listed: {error.strerror}", fix="make it readable")
        return manifest, [_finding("", problem)]


def _manifest_of(folder: Path, kept: dict[str, bytes] | None) -> Manifest:
    if not folder.is_dir():
        raise MissingFile(f"there is no adapter directory {folder}", fix="pass the folder of an adapter")
    path = folder / MANIFEST_NAME
    try:
        data = read_regular(folder, MANIFEST_NAME, limit=MAX_MANIFEST_BYTES)
    except MissingFile as error:
        raise ManifestError(
            f"{folder} holds no {MANIFEST_NAME}", fix="pass the folder of an edgelora adapter"
        ) from error
    except PathError as error:
        raise ManifestError(error.problem, fix=error.fix) from error
    except OSError as error:
        raise ManifestError(f"{path} cannot be read: {error.strerror}", fix=_FETCH_AGAIN) from error
    if kept is not None:
        kept[MANIFEST_NAME] = data
    return parse_manifest(data, str(path))


def _findings(folder: Path, manifest: Manifest, kept: dict[str, bytes] | None) -> Iterator[Finding]:
    listed = {entry.path: entry for entry in manifest.files}
    present: dict[str, os.DirEntry[str]] = dict(walk(folder))
    for path in sorted(listed.keys() - present.keys()):
        problem = f"{path} is listed in the manifest and not there"
        yield _finding(path, FileSetMismatch(problem, fix=_FETCH_AGAIN))
    yield from _name_findings(present, listed)
    headers: dict[str, dict[str, TensorEntry]] = {}
    for path, found in sorted(present.items()):
        if path == MANIFEST_NAME or not found.is_file(follow_symlinks=False):
            continue
        try:
            header = _inspect_file(folder, path, listed.get(path), kept)
        except EdgeloraError as error:
            yield _finding(path, error)
        else:
            headers |= {path: header} if header is not None and path in listed else {}
        if is_program(path):
            problem = f"{path} is code; edgelora never runs it"
            unsafe = UnsafeFile(problem, fix="remove it if nobody needs it")
            yield _finding(path, unsafe, severity="warning")
    yield from _summary_findings(manifest, headers)
    for component in manifest.components:
        if misfit := misfit_of(component, headers):
            yield _finding(MANIFEST_NAME, TensorsMismatch(misfit, fix="ask its publisher to pack it again"))


def _name_findings(present: dict[str, os.DirEntry[str]], listed: dict[str, FileEntry]) -> Iterator[Finding]:
    for path, found in sorted(present.items()):
        try:
            check_path(path)
        except EdgeloraError as error:
            yield _finding(path, error)
            continue
        if not found.is_file(follow_symlinks=False):
            problem = f"{path} is {kind_of(found)}; an adapter holds regular files only"
            yield _finding(path, UnsafeFile(problem, fix="replace it by a regular file, or remove it"))
        elif path not in listed and not is_unlisted(path):
            problem = f"{path} is not listed in the manifest"
            yield _finding(path, FileSetMismatch(problem, fix="remove it, or pack the adapter again"))


def _inspect_file(
    folder: Path, path: str, entry: FileEntry | None, kept: dict[str, bytes] | None
) -> dict[str, TensorEntry] | None:
    try:
        with _open(folder, path) as opened:
            file: BinaryIO = opened
            if entry is not None:
                _compare_size(os.fstat(opened.fileno()).st_size, entry)
            if entry is not None and kept is not None and _holds_tensors(path, entry):
                kept[path] = opened.read(entry.size + 1)
                _compare_digest(hashlib.sha256(kept[path]).hexdigest(), entry)
                file = BytesIO(kept[path])
            elif entry is not None:
                _compare_digest(hashlib.file_digest(opened, "sha256").hexdigest(), entry)
            return _judge(file, path, entry)
    except OSError as error:
        raise _unreadable(path, error) from error


def _open(folder: Path, path: str) -> BufferedReader:
    return BufferedReader(open_regular(folder, path))


def _compare_size(size: int, entry: FileEntry) -> None:
    if size != entry.size:
        raise DigestMismatch(
            f"{entry.path} has {size} bytes, and the manifest says {entry.size}", fix=_FETCH_AGAIN
        )


def _compare_digest(sha256: str, entry: FileEntry) -> None:
    if sha256 != entry.sha256:
        raise DigestMismatch(
            f"{entry.path} has the sha256 {sha256}, and the manifest says {entry.sha256}", fix=_FETCH_AGAIN
        )


def _unreadable(path: str, error: OSError) -> FileSetMismatch:
    return FileSetMismatch(f"{path} cannot be read: {error.strerror}", fix="make it readable")


def _judge(file: BinaryIO, path: str, entry: FileEntry | None) -> dict[str, TensorEntry] | None:
    if _holds_tensors(path, entry):
        return header_of(file, path)
    file.seek(0)
    reason = reason_to_refuse(path, file.read(HEAD_BYTES))
    if reason:
        raise UnsafeFile(f"{path} is refused: {reason}", fix="publish weights as safetensors, and drop it")
    return None


def _holds_tensors(path: str, entry: FileEntry | None) -> bool:
    return path.lower().endswith(".safetensors") or bool(entry and entry.media_type == SAFETENSORS_TYPE)


def _summary_findings(manifest: Manifest, headers: dict[str, dict[str, TensorEntry]]) -> Iterator[Finding]:
    weights = [entry.path for entry in manifest.files if entry.media_type == SAFETENSORS_TYPE]
    if manifest.tensors is None or not headers.keys() >= set(weights):
        return
    actual = summary_of(headers[path] for path in weights)
    if (actual.count, actual.bytes, actual.keys_digest) != (
        manifest.tensors.count,
        manifest.tensors.bytes,
        manifest.tensors.keys_digest,
    ):
        problem = (
            f"the manifest's tensors say {manifest.tensors.count} tensors of {manifest.tensors.bytes} bytes "
            f"({manifest.tensors.keys_digest}), and the weights give {actual.count} of {actual.bytes} "
            f"({actual.keys_digest})"
        )
        yield _finding(MANIFEST_NAME, DigestMismatch(problem, fix=_FETCH_AGAIN))


def _finding(path: str, error: EdgeloraError, *, severity: Severity = "error") -> Finding:
    shown = path.encode("utf-8", "backslashreplace").decode()
    return Finding(error.id, shown, error.problem, severity, error.fix)
