"""Copies of files that are to be published: all of them in one file without a name, whatever their number."""

from __future__ import annotations

import hashlib
import io
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, cast

from edgelora.errors import DigestMismatch
from edgelora.files import disk_full_is_an_error, make_dirs
from edgelora.store.protocol import StoredFile

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

_PIECE_BYTES = 2**20


class Spool:
    """Keeps files until they are published. Nothing is left behind, whatever happens to this process.

    Args:
        folder: On whose disk; made when the first file comes.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._file: io.FileIO | None = None
        self._kept: dict[str, BinaryIO] = {}

    @property
    def files(self) -> Mapping[str, BinaryIO]:
        """What is kept, by digest; each is read apart from the others, by one thread at a time."""
        return self._kept

    def put(self, source: BinaryIO, file: StoredFile) -> None:
        """Keep a copy, if it is not kept already.

        Raises:
            DigestMismatch: ``source`` does not hold what ``file`` says.
            DiskFull: No space is left for the copy.
        """
        if file.sha256 in self._kept:
            return
        with disk_full_is_an_error(self._folder):
            spool = self._opened()
            start = spool.seek(0, os.SEEK_END)
            digest, left = hashlib.sha256(), file.size + 1
            while left and (piece := source.read(min(left, _PIECE_BYTES))):
                digest.update(piece)
                left -= len(piece)
                while piece:
                    piece = piece[spool.write(piece) :]
        if digest.hexdigest() != file.sha256:
            spool.truncate(start)
            raise DigestMismatch(
                f"{file.path} changed while it was read: its sha256 is no longer {file.sha256}",
                fix="leave the folder alone while it is pushed",
            )
        self._kept[file.sha256] = cast("BinaryIO", io.BufferedReader(_Slice(spool, start, file.size)))

    def clear(self) -> None:
        """Keep nothing any more."""
        self._kept = {}
        if self._file is not None:
            self._file.close()
            self._file = None

    def _opened(self) -> io.FileIO:
        if self._file is None:
            make_dirs(self._folder)
            self._file = tempfile.TemporaryFile(dir=self._folder, buffering=0)  # noqa: SIM115
        return self._file


class _Slice(io.RawIOBase):
    """A part of a file. It has no descriptor to show: that one is of the whole."""

    def __init__(self, file: io.FileIO, start: int, size: int) -> None:
        super().__init__()
        self._file = file
        self._start = start
        self._size = size
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._position = max(0, offset + (0, self._position, self._size)[whence])
        return self._position

    def readinto(self, buffer: WriteableBuffer) -> int:
        view = memoryview(buffer).cast("B")
        wanted = max(0, min(len(view), self._size - self._position))
        size = os.preadv(self._file.fileno(), [view[:wanted]], self._start + self._position)
        self._position += size
        return size
