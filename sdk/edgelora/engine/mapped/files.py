"""safetensors files as tensors that share the memory of the files' pages."""

from __future__ import annotations

import mmap
import os
import sys
import weakref
from bisect import bisect_right
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from edgelora.engine.stored_dtypes import DTYPES
from edgelora.errors import ModelError
from edgelora.manifest.tensors import MAX_BASE_HEADER, TensorEntry, read_header

READ_AHEAD_BYTES = 1024 * 1024
"""Asked for at once: Linux reads no more of one request than its read-ahead window, and drops the rest."""
_MAP_NORESERVE = 0x4000
"""Of Linux's ``mman.h``; `mmap` has a name for it from Python 3.13 on."""
MAX_COPIED_BYTES = 1024 * 1024
"""Of a tensor that does not start where one of its dtype may, and is copied into memory."""


@dataclass(frozen=True, slots=True)
class Extent:
    """Bytes ``start`` to ``end`` of one of the files."""

    file: int
    start: int
    end: int


class MappedFiles:
    """The tensors of some safetensors files, as views of memory that is read when it is looked at.

    The memory is private: writing to a tensor copies the page and never reaches the file. Where tensors come
    from stays known by their address, so that their pages can be asked for and given back.

    Args:
        paths: The files. No tensor may be in two of them.

    Raises:
        TensorFileError: One of them is no sound safetensors file.
        ModelError: A tensor is in two of them, of a dtype torch does not have, or large and not aligned.
    """

    def __init__(self, paths: Iterable[Path]) -> None:
        self.tensors: dict[str, Tensor] = {}
        self._maps: list[mmap.mmap] = []
        self._files: list[int] = []
        self._addresses: list[tuple[int, int]] = []
        """Where each map starts, and its number; in order."""
        self._ahead: ThreadPoolExecutor | None = None
        for path in paths:
            self._add(path)
        self._addresses.sort()

    def _add(self, path: Path) -> None:
        header = read_header(path, max_header=MAX_BASE_HEADER)
        file = os.open(path, os.O_RDONLY)
        weakref.finalize(self, os.close, file)
        mapped = _map(file, path)
        address = torch.frombuffer(mapped, dtype=torch.uint8).data_ptr()
        self._addresses.append((address, len(self._maps)))
        self._maps.append(mapped)
        self._files.append(file)
        for name, entry in header.items():
            if name in self.tensors:
                raise ModelError(
                    f"tensor {name} is in {path} and in another file beside it",
                    fix="fetch the base again, or write it again with transformers",
                )
            self.tensors[name] = _view(mapped, entry, name, path)

    def pages(self, tensors: Iterable[Tensor]) -> Pages:
        """Where those of ``tensors`` lie that are views of these files."""
        extents = sorted(
            (extent for tensor in tensors if (extent := self._extent(tensor))),
            key=lambda extent: (extent.file, extent.start),
        )
        merged: list[Extent] = []
        for extent in extents:
            last = merged[-1] if merged else None
            # Pages between two tensors of a block cost less than another call.
            if last and last.file == extent.file and extent.start - last.end <= mmap.PAGESIZE:
                merged[-1] = Extent(last.file, last.start, max(last.end, extent.end))
            else:
                merged.append(extent)
        return Pages(self, tuple(merged))

    def _extent(self, tensor: Tensor) -> Extent | None:
        if tensor.device.type != "cpu" or not tensor.numel():
            return None
        address = tensor.data_ptr()
        at = bisect_right(self._addresses, (address, len(self._maps))) - 1
        if at < 0:
            return None
        start, number = self._addresses[at]
        first, last = address - start, address - start + tensor.nbytes
        return Extent(number, first, last) if last <= len(self._maps[number]) else None

    def read_ahead(self, extents: Iterable[Extent]) -> None:
        """Let the system read these bytes, and do not wait for them."""
        if not hasattr(os, "posix_fadvise"):
            return
        if self._ahead is None:
            self._ahead = ThreadPoolExecutor(1, thread_name_prefix="edgelora-read-ahead")
        self._ahead.submit(_read_ahead, [(self._files[e.file], e.start, e.end) for e in extents])

    def give_back(self, extents: Iterable[Extent]) -> None:
        """Take these bytes out of memory; looked at again, they come from the system's cache or the disk."""
        if not hasattr(mmap, "MADV_DONTNEED"):
            return
        for extent in extents:
            start = extent.start - extent.start % mmap.PAGESIZE
            self._maps[extent.file].madvise(mmap.MADV_DONTNEED, start, extent.end - start)


@dataclass(frozen=True, slots=True)
class Pages:
    """The memory of some mapped tensors. Where the system takes no such advice, nothing happens.

    A copy of a model has tensors of its own; its pages stay those of the original, for which the advice is
    harmless. Pickled, they become the pages of nothing.
    """

    files: MappedFiles | None = None
    extents: tuple[Extent, ...] = field(default=())

    @property
    def size_bytes(self) -> int:
        """Of all extents."""
        return sum(extent.end - extent.start for extent in self.extents)

    def ahead(self) -> None:
        """Have them read in the background."""
        if self.files is not None:
            self.files.read_ahead(self.extents)

    def release(self) -> None:
        """Give them back; they are read again when they are looked at."""
        if self.files is not None:
            self.files.give_back(self.extents)

    def __deepcopy__(self, memo: dict[int, Any]) -> Pages:
        return self

    def __reduce__(self) -> tuple[type[Pages], tuple[()]]:
        return Pages, ()


def _map(file: int, path: Path) -> mmap.mmap:
    """The memory of an open file, which may be larger than all memory and swap: nobody writes all of it."""
    try:
        if sys.platform != "linux":
            return mmap.mmap(file, 0, access=mmap.ACCESS_COPY)
        flags, allowed = mmap.MAP_PRIVATE | _MAP_NORESERVE, mmap.PROT_READ | mmap.PROT_WRITE
        return mmap.mmap(file, 0, flags=flags, prot=allowed)
    except OSError as error:
        raise ModelError(
            f"{path} cannot be mapped into memory: {error.strerror}",
            fix="raise the limit of this process's address space (ulimit -v), or, where "
            "/proc/sys/vm/overcommit_memory is 2, set it to 0",
        ) from error


def _view(mapped: mmap.mmap, entry: TensorEntry, name: str, path: Path) -> Tensor:
    dtype = DTYPES.get(entry.dtype)
    if dtype is None:
        raise ModelError(
            f"tensor {name} of {path} is of dtype {entry.dtype}, which no base is computed from",
            fix=f"store it as one of: {', '.join(DTYPES)}",
        )
    count = prod(entry.shape)
    if count == 0:
        return torch.empty(entry.shape, dtype=dtype)
    if entry.start % dtype.itemsize:
        if count * dtype.itemsize > MAX_COPIED_BYTES:
            raise ModelError(
                f"tensor {name} of {path} starts at byte {entry.start}, where no {entry.dtype} can be read "
                "in place, and a copy would stay in memory",
                fix=f"write it aligned: edgelora bases prepare {path.parent} --quantizer NAME",
            )
        flat = torch.frombuffer(mapped, dtype=torch.uint8, count=count * dtype.itemsize, offset=entry.start)
        return flat.clone().view(dtype).view(entry.shape)
    return torch.frombuffer(mapped, dtype=dtype, count=count, offset=entry.start).view(entry.shape)


def _read_ahead(ranges: list[tuple[int, int, int]]) -> None:
    # In a thread: asking takes time for each page that is not there, and waits where the disk is behind.
    for file, start, end in ranges:
        for place in range(start, end, READ_AHEAD_BYTES):
            os.posix_fadvise(file, place, min(READ_AHEAD_BYTES, end - place), os.POSIX_FADV_WILLNEED)
