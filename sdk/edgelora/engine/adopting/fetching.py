"""Fetching an adapter to adopt: from one commit, into a private folder, with what fetches pulled adapters."""

from __future__ import annotations

import hashlib
import io
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import BinaryIO, cast

from edgelora.engine.adopting.source import (
    CARD_NAME,
    LICENSE_FILES,
    MAX_CONFIG_BYTES,
    MAX_TEXT_BYTES,
    MAX_WEIGHTS_BYTES,
    PICKLE,
)
from edgelora.engine.peft_format import CONFIG_NAME, WEIGHTS_NAME
from edgelora.errors import (
    AdapterNotFound,
    DigestMismatch,
    DiskFull,
    EdgeloraError,
    NotAdoptable,
    OfflineNotCached,
    StoreError,
    StoreUnreachable,
    UnsafeFile,
)
from edgelora.files import exclusive_lock, make_dirs, publish_directory, require_space
from edgelora.locations import cache_dir
from edgelora.manifest import FileEntry
from edgelora.manifest.tree import media_type_of, role_of
from edgelora.store import SourceChanged, StoredFile, open_store
from edgelora.store.blob_cache import BlobCache
from edgelora.store.http_reading import HttpReader
from edgelora.store.hub_repository import HubRepository, TreeFile
from edgelora.store.hub_store import HubStore
from edgelora.transfer.fetching import take_cached
from edgelora.transfer.staging import Staging

MAX_UNDIGESTED_BYTES = 16 * 2**20
"""Of a file whose digest the endpoint does not list: it is read into the memory."""
_LIMITS = {CONFIG_NAME: MAX_CONFIG_BYTES, WEIGHTS_NAME: MAX_WEIGHTS_BYTES} | dict.fromkeys(
    (CARD_NAME, *LICENSE_FILES), MAX_TEXT_BYTES
)
_SPARE_BYTES = 2**20


@contextmanager
def fetched_source(address: str, repository: str, revision: str | None) -> Iterator[Path]:
    """A folder with the files of an adapter, there while the block runs; others who want it wait.

    What was fetched whole stays in the cache of blobs, by its digest, and what was begun goes on.

    Args:
        address: Of a store that speaks the Hub's protocol.
        repository: ``OWNER/NAME``.
        revision: A branch, a tag or a commit; ``main`` where not given.

    Raises:
        StoreError: It is a store of another kind.
        AdapterNotFound: It holds no such repository or revision, or no adapter of PEFT's in it.
        UnsafeFile: The weights are a pickle.
        NotAdoptable: A file is announced longer than it may be.
        DigestMismatch: Bytes are not what was announced; nothing is kept.
        DiskFull: No space is left.
        StoreUnreachable: The endpoint broke off; the next try goes on from there.
    """
    store = open_store(address)
    if not isinstance(store, HubStore):
        raise StoreError(
            f"{store.address} holds adapters of edgelora only, or may not be asked now",
            fix=f"pull {repository} from it, or name an endpoint that speaks the Hub's protocol",
        )
    reader = HubRepository(HttpReader(store.endpoint), repository)
    commit = reader.commit_of(revision or "main")
    tree = reader.tree(commit) if commit else {}
    if not commit or CONFIG_NAME not in tree:
        raise AdapterNotFound(
            f"{store.address} holds no adapter of PEFT's in {repository}, revision {revision or 'main'}",
            fix="correct the name, or name another revision after an @",
        )
    _check_listed(tree, repository)
    # By its origin too: one endpoint's word for a commit is not another's.
    key = hashlib.sha256(f"{store.endpoint.url}#{repository}@{commit}".encode()).hexdigest()[:32]
    folder = cache_dir() / "adopting" / key
    # Where the Hub's own cache would have it, for its place says whose it is.
    place = folder / f"models--{repository.replace('/', '--')}" / "snapshots" / commit
    with exclusive_lock(cache_dir() / "locks" / f"adopting-{key}.lock"):
        staging = _gather(reader, commit, tree, folder)
        try:
            shutil.rmtree(place, ignore_errors=True)
            make_dirs(place.parent)
            publish_directory(staging.adapter, place)
            yield place
        finally:
            staging.discard()


def _check_listed(tree: Mapping[str, TreeFile], repository: str) -> None:
    if WEIGHTS_NAME not in tree and PICKLE in tree:
        raise UnsafeFile(
            f"{repository} holds its weights as a pickle, {PICKLE}, which can run any code when it is opened",
            fix="where you trust it, load it with PEFT and save it again with safe_serialization=True",
        )
    for path, limit in _LIMITS.items():
        file = tree.get(path)
        if file is not None and file.sha256 is None:
            limit = min(limit, MAX_UNDIGESTED_BYTES)
        if file is not None and file.size > limit:
            raise NotAdoptable(
                f"{path} of {repository} is announced with {file.size} bytes, and {limit} are the most",
                fix="nothing was fetched; fetch it by other means if you trust it, and adopt the folder",
            )


def _gather(reader: HubRepository, commit: str, tree: Mapping[str, TreeFile], folder: Path) -> Staging:
    """Everything that is taken of a commit, each file with the digest it is known by."""
    listed = {path: tree[path] for path in _LIMITS if path in tree}
    short = {
        path: _read(reader, commit, path, file.size) for path, file in listed.items() if file.sha256 is None
    }
    entries = tuple(
        FileEntry(
            path=path,
            size=file.size,
            sha256=file.sha256 or hashlib.sha256(short[path]).hexdigest(),
            media_type=media_type_of(path),
            role=role_of(path),
        )
        for path, file in listed.items()
    )
    staging = Staging(folder, entries)
    try:
        take_cached(staging)
        missing_bytes = sum(entry.size for entry in staging.missing()) - staging.begun_bytes()
        fix = "free space there, or let EDGELORA_HOME name a folder on another disk"
        require_space(folder, missing_bytes + _SPARE_BYTES, fix=fix)
        for entry in staging.missing():
            if entry.path in short:
                staging.fetch(entry, partial(_open_bytes, short[entry.path]))
            else:
                staging.fetch(entry, partial(_open_remote, reader, commit, entry))
                stored = StoredFile(entry.path, entry.size, entry.sha256)
                BlobCache().keep(staging.adapter / entry.path, stored)
    except (DiskFull, StoreUnreachable, OfflineNotCached):
        # The next try goes on from here.
        raise
    except EdgeloraError:
        staging.discard()
        raise
    return staging


def _open_remote(reader: HubRepository, commit: str, entry: FileEntry, offset: int) -> BinaryIO:
    return cast("BinaryIO", reader.open_file(commit, entry.path, size=entry.size, offset=offset))


def _open_bytes(data: bytes, offset: int) -> BinaryIO:
    return io.BytesIO(data[offset:])


def _read(reader: HubRepository, commit: str, path: str, size: int) -> bytes:
    try:
        with reader.open_file(commit, path, size=size, offset=0) as source:
            return b"".join(iter(source.read, b""))
    except SourceChanged as error:
        raise DigestMismatch(f"{path} changed while it was fetched", fix="repeat the command") from error
