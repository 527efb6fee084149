"""Writing a bundle: the same content gives the same bytes."""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import secrets
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from edgelora.bundles.archive import (
    END,
    INDEX_NAME,
    SIGNATURE_NAME,
    blob_name,
    header,
    member_bytes,
    padding,
)
from edgelora.bundles.contents import gather
from edgelora.bundles.index import MAX_INDEX_BYTES, Blob, Index
from edgelora.bundles.trust import sign_index
from edgelora.errors import BundleError, DigestMismatch, MissingFile, TargetExists
from edgelora.files import disk_full_is_an_error, exclusive_lock, fsync_dir, lock_if_free, require_space
from edgelora.locations import home
from edgelora.signing import PrivateKey
from edgelora.store.repository import names

_PIECE_BYTES = 2**20
_TEMPORARY = re.compile(r"[0-9a-f]{16}\.tmp")


@dataclass(frozen=True, slots=True)
class Created:
    """A bundle that was written."""

    path: Path
    index: Index
    size_bytes: int
    sha256: str
    """Of the whole file."""
    is_signed: bool


def create_bundle(
    path: Path,
    adapters: Iterable[str],
    *,
    bases: Iterable[str] = (),
    source: str | None = None,
    keys: Sequence[PrivateKey] = (),
) -> Created:
    """Write adapters, and the base models they need, into one file, which appears whole or not at all.

    Args:
        path: The file to make.
        adapters: Folders, or references into a store.
        bases: Folders of base models, or ``micro``.
        source: A store's name or address, instead of the one in a reference or the default store.
        keys: Sign the index with each of these.

    Raises:
        TargetExists: There is something at ``path``.
        DiskFull: No space is left.
        DigestMismatch: A file changed while it was read.
        EdgeloraError: What `gather` finds.
    """
    _refuse_existing(path)
    if not path.absolute().parent.is_dir():
        raise MissingFile(
            f"there is no folder {path.parent}", fix="make it, mount its disk, or correct the path"
        )
    contents = gather(adapters, bases, source)
    index = contents.index()
    data = index.encode()
    if len(data) > MAX_INDEX_BYTES:
        raise BundleError(
            f"the index of so many files has {len(data)} bytes, and {MAX_INDEX_BYTES} are allowed",
            fix="make several bundles",
        )
    signature = sign_index(data, keys) if keys else None
    needed_bytes = sum(member_bytes(blob.size) for blob in index.blobs) + 2 * MAX_INDEX_BYTES
    require_space(path, needed_bytes, fix="free space, or name another disk")
    with _temporary(path) as temporary, disk_full_is_an_error(path):
        sha256 = _write(temporary, data, signature, index.blobs, contents.openers)
        _refuse_existing(path)
        os.replace(temporary, path)
        fsync_dir(path.absolute().parent)
    return Created(path, index, path.stat().st_size, sha256, signature is not None)


def _refuse_existing(path: Path) -> None:
    if os.path.lexists(path):
        raise TargetExists(f"{path} exists already", fix="choose another name, or delete it first")


@contextmanager
def _temporary(path: Path) -> Iterator[Path]:
    """A name beside ``path``; what those left there who died while they wrote the same bundle is deleted."""
    prefix = f".{path.name[:100]}."
    key = hashlib.sha256(os.fsencode(path.resolve())).hexdigest()[:32]
    with exclusive_lock(home() / "locks" / f"bundle-{key}.lock"):
        for name in names(path.absolute().parent):
            if name.startswith(prefix) and _TEMPORARY.fullmatch(name.removeprefix(prefix)):
                # Somebody with another home may be writing there: their file is locked.
                stale = path.with_name(name)
                with suppress(OSError), lock_if_free(stale) as is_free:
                    if is_free:
                        stale.unlink()
        temporary = path.with_name(f"{prefix}{secrets.token_hex(8)}.tmp")
        try:
            yield temporary
        finally:
            with suppress(FileNotFoundError):
                temporary.unlink()


class _Hashed:
    """A file that is hashed as it is written."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self.digest = file, hashlib.sha256()

    def write(self, data: bytes) -> None:
        self._file.write(data)
        self.digest.update(data)


def _write(
    temporary: Path,
    index: bytes,
    signature: bytes | None,
    blobs: Iterable[Blob],
    openers: dict[str, Callable[[], BinaryIO]],
) -> str:
    with open(temporary, "xb") as file:
        fcntl.flock(file.fileno(), fcntl.LOCK_EX)
        out = _Hashed(file)
        for name, data in ((INDEX_NAME, index), (SIGNATURE_NAME, signature)):
            if data is not None:
                out.write(header(name, len(data)) + data + bytes(padding(len(data))))
        for blob in blobs:
            out.write(header(blob_name(blob.sha256), blob.size))
            with openers[blob.sha256]() as source:
                _copy(source, out, blob)
            out.write(bytes(padding(blob.size)))
        out.write(END)
        file.flush()
        os.fsync(file.fileno())
    return out.digest.hexdigest()


def _copy(source: BinaryIO, out: _Hashed, blob: Blob) -> None:
    digest, left = hashlib.sha256(), blob.size
    while left and (piece := source.read(min(left, _PIECE_BYTES))):
        digest.update(piece)
        out.write(piece)
        left -= len(piece)
    if left or digest.hexdigest() != blob.sha256:
        raise DigestMismatch(
            f"a file that hashes to {blob.sha256} holds other bytes now",
            fix="leave the adapters and bases alone while they are bundled; verify them, and try again",
        )
