"""One safetensors file, written without ever holding more than one of its tensors.

The header comes first and needs all shapes, and those of quantized tensors are known when they are made. So
tensors are spilled to a file beside the shard as they come, and the shard is put together from there, in
pieces, in the order of the header.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from math import prod
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

import torch
from torch import Tensor

from edgelora.engine.stored_dtypes import DTYPE_NAMES, DTYPES
from edgelora.errors import ModelError
from edgelora.files import disk_full_is_an_error, fsync_dir
from edgelora.manifest.tensor_digest import HashedFile, HashedTensor
from edgelora.manifest.tensors import DTYPE_BITS, TensorEntry

ALIGNMENT = 64
"""Bytes; where the data of a shard start is a multiple of it."""
_PIECE_BYTES = 4 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class _Piece:
    """Where the bytes of a tensor lie until the shard is put together."""

    path: Path
    entry: TensorEntry


class ShardWriter:
    """Writes one shard; it appears whole, when `finish` is called.

    Args:
        path: Of the shard. Beside it lie, until the end, ``<name>.spill`` and ``<name>.part``.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._spill = path.with_name(f"{path.name}.spill")
        self._part = path.with_name(f"{path.name}.part")
        self._pieces: dict[str, _Piece] = {}
        self._file: BinaryIO

    def add(self, name: str, tensor: Tensor) -> None:
        """Take a tensor, which may be forgotten afterwards."""
        self._new(name)
        start = self._file.tell()
        with disk_full_is_an_error(self.path):
            self._file.write(bytes_of(tensor))
        self._keep(name, DTYPE_NAMES[tensor.dtype], tuple(tensor.shape), start)

    def copy(self, name: str, path: Path, entry: TensorEntry, dtype: torch.dtype) -> None:
        """Take a tensor as it lies in another safetensors file, piece by piece; floats are converted.

        Args:
            name: Under which to store it.
            path: The file.
            entry: Where it lies there; nothing may change it until `finish`.
            dtype: Of the stored tensor, where ``entry`` is of floats of another one.
        """
        self._new(name)
        kept = kept_dtype(entry.dtype, dtype)
        if kept == entry.dtype:
            self._pieces[name] = _Piece(path, entry)
            return
        start = self._file.tell()
        with disk_full_is_an_error(self.path), open(path, "rb") as file:
            for piece in converted_pieces(file, entry, kept):
                self._file.write(piece)
        self._keep(name, kept, entry.shape, start)

    def finish(self) -> HashedFile:
        """Put the shard together, let it appear, durably, and say what is in it.

        Raises:
            DiskFull: No space is left.
            ModelError: A file that was to be copied from ended early.
        """
        with disk_full_is_an_error(self.path):
            self._file.close()
            ordered = sorted(
                self._pieces.items(), key=lambda item: (-DTYPE_BITS[item[1].entry.dtype], item[0])
            )
            with open(self._part, "wb") as out:
                hashed = _assemble(out, ordered)
                out.flush()
                os.fsync(out.fileno())
            os.replace(self._part, self.path)
            fsync_dir(self.path.parent)
        return hashed

    def __enter__(self) -> Self:
        with disk_full_is_an_error(self.path):
            self._file = open(self._spill, "wb")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with suppress(OSError):  # on a full disk, for what was not written yet; `finish` has closed it else
            self._file.close()
        self._spill.unlink(missing_ok=True)
        self._part.unlink(missing_ok=True)

    def _new(self, name: str) -> None:
        if name in self._pieces:
            raise ValueError(f"{name} was written twice into {self.path.name}")

    def _keep(self, name: str, dtype: str, shape: tuple[int, ...], start: int) -> None:
        self._pieces[name] = _Piece(self._spill, TensorEntry(dtype, shape, start, self._file.tell()))


def bytes_of(tensor: Tensor) -> memoryview:
    """The bytes of a tensor, row-major."""
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return memoryview(flat.view(torch.uint8).numpy() if flat.numel() else b"")


def kept_dtype(stored: str, dtype: torch.dtype) -> str:
    """In which a tensor that is not quantized is kept: floats in ``dtype``, all else as it is."""
    known = DTYPES.get(stored)
    return DTYPE_NAMES[dtype] if known is not None and known.is_floating_point else stored


def converted_pieces(file: BinaryIO, entry: TensorEntry, dtype: str) -> Iterator[bytes | memoryview]:
    """As `read_pieces`, converted to another dtype."""
    for piece in read_pieces(file, entry):
        if dtype == entry.dtype:
            yield piece
        else:
            yield bytes_of(torch.frombuffer(bytearray(piece), dtype=DTYPES[entry.dtype]).to(DTYPES[dtype]))


def tensor_bytes(dtype: str, shape: tuple[int, ...]) -> int:
    """Size of a tensor in a file."""
    return prod(shape) * DTYPE_BITS[dtype] // 8


def _assemble(out: BinaryIO, ordered: list[tuple[str, _Piece]]) -> HashedFile:
    whole = hashlib.sha256()
    header = _header(ordered)
    whole.update(header)
    out.write(header)
    tensors = {}
    for name, piece in ordered:
        one = hashlib.sha256()
        with open(piece.path, "rb") as file:
            for data in read_pieces(file, piece.entry):
                out.write(data)
                whole.update(data)
                one.update(data)
        tensors[name] = HashedTensor(piece.entry.dtype, piece.entry.shape_text, one.hexdigest())
    return HashedFile(out.tell(), whole.hexdigest(), tensors)


def _header(ordered: list[tuple[str, _Piece]]) -> bytes:
    """Length and JSON, padded with spaces so that the data are aligned."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    at = 0
    for name, piece in ordered:
        size = piece.entry.end - piece.entry.start
        header[name] = {
            "dtype": piece.entry.dtype,
            "shape": list(piece.entry.shape),
            "data_offsets": [at, at + size],
        }
        at += size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % ALIGNMENT)
    return len(text).to_bytes(8, "little") + text


def read_pieces(file: BinaryIO, entry: TensorEntry) -> Iterator[bytes]:
    """The bytes of a tensor in an open file, a few megabytes at a time.

    Raises:
        ModelError: The file ends before the tensor does.
    """
    file.seek(entry.start)
    left = entry.end - entry.start
    while left:
        piece = file.read(min(left, _PIECE_BYTES))
        if not piece:
            raise ModelError(f"{file.name} ended while it was read", fix="wait for its writer, then repeat")
        left -= len(piece)
        yield piece
