"""Where an adapter to adopt is: a folder, the Hub's cache on this machine, or an endpoint."""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path

from transformers.utils import cached_file

from edgelora.engine.adopting.source import LICENSE_FILES, PICKLE
from edgelora.engine.peft_format import CONFIG_NAME, WEIGHTS_NAME
from edgelora.errors import (
    AdapterNotFound,
    DigestMismatch,
    MissingFile,
    ReferenceFormError,
    StoreError,
    UnsafeFile,
)
from edgelora.files import disk_full_is_an_error, make_dirs
from edgelora.locations import cache_dir
from edgelora.store import open_store
from edgelora.store.http_reading import HttpReader
from edgelora.store.hub_repository import HubRepository, TreeFile
from edgelora.store.hub_store import HubStore
from edgelora.store.remote_file import RemoteFile

_REPOSITORY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}/[A-Za-z0-9][A-Za-z0-9._-]{0,95}")
_REVISION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_PIECE_BYTES = 2**20


def locate_source(adapter: str) -> Path:
    """The folder of an adapter that PEFT saved.

    Args:
        adapter: A folder; ``OWNER/NAME`` of the Hub's cache; or ``hf://OWNER/NAME``, ``STORE:OWNER/NAME`` or
            ``https://host#OWNER/NAME``, each with ``@revision`` or not, which are fetched.

    Raises:
        MissingFile: It is none of these, or not in the cache.
        AdapterNotFound: The endpoint holds no such repository or revision.
        UnsafeFile: It holds pickled weights only.
        StoreError: The store is a directory, which holds adapters of edgelora only.
    """
    folder = Path(adapter).expanduser()
    if folder.is_dir():
        return folder
    store, repository, revision = _split(adapter)
    if store is not None:
        return _fetched(store, repository, revision)
    try:
        found = cached_file(repository, CONFIG_NAME, revision=revision, local_files_only=True)
    except (OSError, ValueError):
        found = None
    if found is None:
        raise MissingFile(
            f"{adapter} is neither a folder nor in the Hub's cache on this machine",
            fix=f"correct the path, or fetch it from the Hub: edgelora adopt hf://{repository}",
        )
    return Path(found).parent


def _split(adapter: str) -> tuple[str | None, str, str | None]:
    """Store, ``owner/name`` and revision; a repository's name may hold capitals, unlike edgelora's own."""
    store: str | None
    if adapter.startswith("hf://"):
        store, rest = "hf://", adapter.removeprefix("hf://")
    elif "#" in adapter:
        store, _, rest = adapter.rpartition("#")
    elif ":" in adapter:
        store, _, rest = adapter.partition(":")
    else:
        store, rest = None, adapter
    repository, _, revision = rest.partition("@")
    if not _REPOSITORY.fullmatch(repository) or (revision and not _REVISION.fullmatch(revision)):
        raise ReferenceFormError(
            f"{adapter[:200]!r} is neither a folder nor a reference to a repository",
            fix="write a folder, OWNER/NAME, hf://OWNER/NAME or https://host#OWNER/NAME",
        )
    return store, repository, revision or None


def _fetched(address: str, repository: str, revision: str | None) -> Path:
    store = open_store(address)
    if not isinstance(store, HubStore):
        raise StoreError(
            f"{store.address} holds adapters of edgelora only, or may not be asked now",
            fix=f"pull {repository} from it, or name an endpoint that speaks the Hub's protocol",
        )
    reader = HubRepository(HttpReader(store.endpoint), repository)
    refs = reader.refs()
    commit = refs and (refs.branches.get(revision or "main") or refs.tags.get(revision or "") or revision)
    tree = reader.tree(commit) if commit else {}
    if not commit or CONFIG_NAME not in tree:
        raise AdapterNotFound(
            f"{store.address} holds no adapter of PEFT's in {repository}, revision {revision or 'main'}",
            fix="correct the name, or name another revision after an @",
        )
    if WEIGHTS_NAME not in tree and PICKLE in tree:
        raise UnsafeFile(
            f"{repository} holds its weights as a pickle, {PICKLE}, which can run any code when it is opened",
            fix="where you trust it, load it with PEFT and save it again with safe_serialization=True",
        )
    folder = cache_dir() / "adopting" / f"models--{repository.replace('/', '--')}" / "snapshots" / commit
    make_dirs(folder)
    for path in (CONFIG_NAME, WEIGHTS_NAME, "README.md", *LICENSE_FILES):
        if path in tree and not (folder / path).is_file():
            with reader.open_file(commit, path, size=tree[path].size, offset=0) as source:
                _write(source, folder / path, tree[path])
    return folder


def _write(source: RemoteFile, target: Path, file: TreeFile) -> None:
    part = target.with_name(f".{target.name}.part")
    digest, size = hashlib.sha256(), 0
    with disk_full_is_an_error(target), open(part, "wb") as out:
        while size < file.size and (piece := source.read(min(_PIECE_BYTES, file.size - size))):
            digest.update(piece)
            out.write(piece)
            size += len(piece)
        out.flush()
        os.fsync(out.fileno())
    if size != file.size or file.sha256 not in (None, digest.hexdigest()):
        part.unlink()
        raise DigestMismatch(
            f"{target.name} arrived with {size} bytes of sha256 {digest.hexdigest()}, not as announced",
            fix="fetch it again; if it differs again, do not use this source",
        )
    os.replace(part, target)
