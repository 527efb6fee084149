"""Digests of weights files: of each file, of each tensor, and of all tensors however they are split.

A file is read once, in pieces; its own digest and those of its tensors come from the same pass. They are
cached by (device, inode, size, mtime, ctime), so an unchanged base is hashed once per machine.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from edgelora.errors import ModelError, TensorFileError
from edgelora.manifest.digest_cache import DigestCache
from edgelora.manifest.tensors import MAX_BASE_HEADER, TensorEntry, header_of

_PIECE_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True)
class HashedTensor:
    """What a tensor adds to the identity of a base."""

    dtype: str
    shape: str
    sha256: str


@dataclass(frozen=True, slots=True)
class HashedFile:
    """A weights file with the digests of its bytes and of its tensors."""

    size: int
    sha256: str
    tensors: Mapping[str, HashedTensor]


def tensors_digest(paths: Iterable[Path], *, rehash: bool = False) -> str:
    """The identity of the tensors in these safetensors files: ``sha256:`` and 64 hex digits.

    It depends on names, dtypes, shapes and bytes; not on files, their order, or metadata.

    Args:
        paths: safetensors files.
        rehash: Ignore cached digests.

    Raises:
        ModelError: A file cannot be read.
        TensorFileError: A file is malformed, or two of them hold a tensor of the same name.
    """
    return digest_of_tensors({path.name: hash_weights(path, rehash=rehash) for path in paths})


def digest_of_tensors(files: Mapping[str, HashedFile]) -> str:
    r"""As `tensors_digest`, of files that are hashed already, by name.

    sha256 of ``edgelora-tensors-v1\n``, then ``<name> <dtype> <shape> <sha256>\n`` for each tensor, sorted by
    bytes; a shape is ``[64,128]``.

    Raises:
        TensorFileError: Two files hold a tensor of the same name.
    """
    holders: dict[str, str] = {}
    lines = []
    for file_name, file in files.items():
        for name, tensor in file.tensors.items():
            if name in holders:
                raise TensorFileError(
                    f"tensor {name!r} is in {holders[name]} and in {file_name}",
                    fix="keep one set of weights files in the folder",
                )
            holders[name] = file_name
            lines.append(f"{name} {tensor.dtype} {tensor.shape} {tensor.sha256}\n".encode())
    digest = hashlib.sha256(b"edgelora-tensors-v1\n" + b"".join(sorted(lines)))
    return f"sha256:{digest.hexdigest()}"


def hash_weights(path: Path, *, rehash: bool = False) -> HashedFile:
    """Hash one safetensors file and its tensors, or take the digests from the cache.

    Raises:
        ModelError: The file cannot be read, or changes while it is read.
        TensorFileError: It is malformed.
    """
    try:
        with open(path, "rb") as file:
            before = os.fstat(file.fileno())
            cache = DigestCache(before)
            cached = None if rehash else _from_cache(cache.read(), before.st_size)
            if cached:
                return cached
            hashed = _hash(file, str(path))
            after = os.fstat(file.fileno())
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror}", fix="make it a readable file") from error
    if (before.st_size, before.st_mtime_ns, before.st_ctime_ns) != (
        after.st_size,
        after.st_mtime_ns,
        after.st_ctime_ns,
    ):
        raise ModelError(f"{path} changed while it was read", fix="wait for its writer, then repeat")
    cache.write(_for_cache(hashed))
    return hashed


def remembered_hash(path: Path) -> HashedFile | None:
    """As `hash_weights` where the file was hashed before and did not change since; nothing of it is read."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return _from_cache(DigestCache(status).read(), status.st_size)


def _hash(file: BinaryIO, where: str) -> HashedFile:
    header = header_of(file, where, max_header=MAX_BASE_HEADER)
    whole = hashlib.sha256()
    at = file.tell()
    file.seek(0)
    for piece in _pieces(file, at, where):
        whole.update(piece)
    tensors = {}
    for name, entry in header.items():
        one = hashlib.sha256()
        for piece in _pieces(file, entry.end - entry.start, where):
            whole.update(piece)
            one.update(piece)
        tensors[name] = _hashed(entry, one.hexdigest())
    return HashedFile(file.tell(), whole.hexdigest(), tensors)


def _pieces(file: BinaryIO, count: int, where: str) -> Iterator[bytes]:
    while count:
        piece = file.read(min(count, _PIECE_BYTES))
        if not piece:
            raise ModelError(f"{where} ended while it was read", fix="wait for its writer, then repeat")
        count -= len(piece)
        yield piece


def _hashed(entry: TensorEntry, sha256: str) -> HashedTensor:
    return HashedTensor(entry.dtype, entry.shape_text, sha256)


def _for_cache(file: HashedFile) -> dict[str, object]:
    tensors = [[name, one.dtype, one.shape, one.sha256] for name, one in file.tensors.items()]
    return {"sha256": file.sha256, "tensors": tensors}


def _from_cache(record: object, size: int) -> HashedFile | None:
    match record:
        case {"sha256": str(sha256), "tensors": list(rows)}:
            tensors = {}
            for row in rows:
                match row:
                    case [str(name), str(dtype), str(shape), str(digest)]:
                        tensors[name] = HashedTensor(dtype, shape, digest)
                    case _:
                        return None
            return HashedFile(size, sha256, tensors)
    return None
