"""Reading a bundle that may be hostile: what its index promises is where it must be, and nothing else is."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import RawIOBase
from pathlib import Path
from typing import BinaryIO, cast

from edgelora.bundles.archive import (
    BLOCK,
    END,
    INDEX_NAME,
    SIGNATURE_NAME,
    blob_name,
    header,
    member_bytes,
    padding,
    refused,
    size_in,
)
from edgelora.bundles.index import MAX_INDEX_BYTES, Blob, BundledAdapter, Index, parse_index
from edgelora.errors import BundleError, DigestMismatch, FileSetMismatch, MissingFile, UnsafeFile
from edgelora.manifest import Manifest, parse_manifest
from edgelora.manifest.pickles import reason_to_refuse
from edgelora.store import StoredFile

MAX_SIGNATURE_BYTES = 6 * 2**20
"""The longest index in base64, and its signatures."""


@dataclass(frozen=True, slots=True)
class Bundle:
    """An open bundle, whose structure was checked; blobs are checked when they are read."""

    index: Index
    index_bytes: bytes
    signature: bytes | None
    """The bytes of ``index.sig.json``; whoever needs them judges them."""
    size_bytes: int
    source: BinaryIO
    offsets: dict[str, int]
    """Where the data of each blob starts."""

    def read(self, blob: Blob) -> bytes:
        """The bytes of a small blob, checked.

        Raises:
            DigestMismatch: They do not hash to its name.
        """
        self.source.seek(self.offsets[blob.sha256])
        data = self.source.read(blob.size)
        if hashlib.sha256(data).hexdigest() != blob.sha256:
            raise DigestMismatch(
                f"{blob_name(blob.sha256)} of the bundle holds other bytes",
                fix="get the bundle again, or ask whoever made it for another copy",
            )
        return data

    def open(self, blob: Blob | StoredFile) -> BinaryIO:
        """The bytes of a blob, unchecked: whoever writes them down hashes them."""
        return cast(BinaryIO, _Part(self.source, self.offsets[blob.sha256], blob.size))

    def manifest(self, adapter: BundledAdapter) -> Manifest:
        """The manifest of an adapter, compared with what the index says of it.

        Raises:
            DigestMismatch: Its bytes, or its identity, are others than the index names.
            FileSetMismatch: A file it lists is not in the bundle.
            UnsafeFile: It lists a pickle.
            EdgeloraError: What `parse_manifest` finds.
        """
        manifest = parse_manifest(self.read(adapter.manifest), f"the manifest of {adapter.reference}")
        identity = manifest.identity
        told = f"{identity.namespace}/{identity.name}@{identity.version}"
        fix = "do not use this bundle: its index and its content are not of one making"
        if told != str(adapter.reference):
            raise DigestMismatch(f"the bundle calls {told} {adapter.reference}", fix=fix)
        sizes = {blob.sha256: blob.size for blob in self.index.blobs}
        for entry in manifest.files:
            if sizes.get(entry.sha256) != entry.size:
                raise FileSetMismatch(
                    f"the bundle lacks {entry.path} of {adapter.reference}, or has it in another size",
                    fix=fix,
                )
            if reason := reason_to_refuse(entry.path, b""):
                raise UnsafeFile(f"{entry.path} of {adapter.reference} is refused: {reason}", fix=fix)
        return manifest

    def files(self, adapter: BundledAdapter, manifest: Manifest) -> tuple[StoredFile, ...]:
        """Every file of an adapter but its manifest."""
        listed = (StoredFile(entry.path, entry.size, entry.sha256) for entry in manifest.files)
        return (*listed, *(file.stored for file in adapter.unlisted))


@contextmanager
def open_bundle(path: Path) -> Iterator[Bundle]:
    """Open a bundle and check all of it but the content of its blobs.

    Raises:
        MissingFile: There is no such file.
        BundleError: It is no bundle, or is cut off.
        SpecVersionUnsupported: It is of another major version.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise MissingFile(f"there is no bundle {path}", fix="correct the path, or mount its disk") from error
    about = os.fstat(descriptor)
    if not stat.S_ISREG(about.st_mode):
        os.close(descriptor)
        raise refused(f"{path} is not a file")
    with open(descriptor, "rb") as source:
        try:
            bundle = read_bundle(source, about.st_size)
        except BundleError as error:
            raise BundleError(f"{path}: {error.problem}", fix=error.fix) from error
        yield bundle


def read_bundle(source: BinaryIO, size_bytes: int) -> Bundle:
    """Check the structure of a bundle of this length, and read its index.

    Raises:
        BundleError: It is no bundle, or is cut off.
        SpecVersionUnsupported: It is of another major version.
    """
    index_bytes = _member(source, INDEX_NAME, MAX_INDEX_BYTES)
    index = parse_index(index_bytes)
    position = member_bytes(len(index_bytes))
    first = blob_name(index.blobs[0].sha256)
    signature = None
    if _peek(source, position) != header(first, index.blobs[0].size):
        signature = _member(source, SIGNATURE_NAME, MAX_SIGNATURE_BYTES)
        position += member_bytes(len(signature))
    offsets = {}
    for blob in index.blobs:
        offsets[blob.sha256] = position + BLOCK
        position += member_bytes(blob.size)
    if size_bytes != position + len(END):
        raise refused(f"it has {size_bytes} bytes, and should have {position + len(END)}")
    for blob in index.blobs:
        start = offsets[blob.sha256]
        if _peek(source, start - BLOCK) != header(blob_name(blob.sha256), blob.size):
            raise refused(f"where {blob_name(blob.sha256)} should start, there is something else")
        source.seek(start + blob.size)
        _refuse_other_than_zeros(source.read(padding(blob.size)), padding(blob.size))
    source.seek(position)
    _refuse_other_than_zeros(source.read(len(END) + 1), len(END))
    return Bundle(index, index_bytes, signature, size_bytes, source, offsets)


def all_blobs_are_named(bundle: Bundle, manifests: list[Manifest]) -> None:
    """Refuse a bundle that carries bytes of nothing it names.

    Raises:
        FileSetMismatch: It does.
    """
    named = {entry.sha256 for manifest in manifests for entry in manifest.files}
    for adapter in bundle.index.adapters:
        named |= {adapter.manifest.sha256, *(file.sha256 for file in adapter.unlisted)}
    named |= {file.sha256 for base in bundle.index.bases for file in base.files}
    stray = {blob.sha256 for blob in bundle.index.blobs} - named
    if stray:
        raise FileSetMismatch(
            f"the bundle holds {blob_name(min(stray))}, which belongs to nothing in it",
            fix="do not use this bundle: it carries something hidden",
        )


class _Part(RawIOBase):
    """A stretch of a file, read from its start."""

    def __init__(self, source: BinaryIO, start: int, size: int) -> None:
        self._source, self._position, self._end = source, start, start + size

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        left = self._end - self._position
        self._source.seek(self._position)
        data = self._source.read(left if size < 0 else min(size, left))
        self._position += len(data)
        return data


def _member(source: BinaryIO, name: str, limit: int) -> bytes:
    size = size_in(source.read(BLOCK), name)
    if size > limit:
        raise refused(f"{name} has {size} bytes, and {limit} are allowed")
    data = source.read(size)
    if len(data) != size:
        raise refused("it is cut off")
    _refuse_other_than_zeros(source.read(padding(size)), padding(size))
    return data


def _peek(source: BinaryIO, position: int) -> bytes:
    source.seek(position)
    block = source.read(BLOCK)
    source.seek(position)
    return block


def _refuse_other_than_zeros(data: bytes, size: int) -> None:
    if data != bytes(size):
        raise refused("there is something where only zero bytes belong")
