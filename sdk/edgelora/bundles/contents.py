"""What goes into a bundle: adapters of stores, of this machine or of folders, and base models."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import BinaryIO, cast

from edgelora import micro
from edgelora.bundles.archive import MAX_MEMBER_BYTES
from edgelora.bundles.index import Blob, BundledAdapter, BundledBase, Index, NamedBlob
from edgelora.confined import open_regular, read_regular
from edgelora.errors import AdapterNotFound, BundleError, MissingFile, ReferenceFormError, StoreNotFound
from edgelora.manifest import (
    MANIFEST_NAME,
    MAX_MANIFEST_BYTES,
    UNPUBLISHED,
    FileEntry,
    Manifest,
    is_unlisted,
    parse_manifest,
)
from edgelora.manifest.base_identity import INDEX_NAME, SINGLE_NAME, identify_base, weights_files
from edgelora.manifest.tree import walk
from edgelora.prepared import prepared_base
from edgelora.store import Reference, Snapshot, Store, is_folder_path, open_store, parse_reference
from edgelora.transfer.catalog import find_pulled
from edgelora.transfer.naming import telling_of_folder
from edgelora.transfer.pushing import store_named
from edgelora.verify import check

_BASE_FILES = (
    "LICENSE",
    "README.md",
    "added_tokens.json",
    "chat_template.jinja",
    "config.json",
    "generation_config.json",
    "merges.txt",
    "special_tokens_map.json",
    "spiece.model",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "vocab.json",
    "vocab.txt",
)
"""What is taken of a base besides its weights."""

_SHARDS = (
    "save the base again in smaller shards, with save_pretrained(..., max_shard_size='5GB'): its digest stays"
)

Opener = Callable[[], BinaryIO]


@dataclass(slots=True)
class Contents:
    """What a bundle will hold, and where the bytes come from."""

    adapters: dict[str, BundledAdapter] = field(default_factory=dict)
    bases: dict[str, BundledBase] = field(default_factory=dict)
    blobs: dict[str, Blob] = field(default_factory=dict)
    openers: dict[str, Opener] = field(default_factory=dict)

    def index(self) -> Index:
        """The index, everything in its order."""
        return Index(
            adapters=tuple(self.adapters[key] for key in sorted(self.adapters)),
            bases=tuple(self.bases[key] for key in sorted(self.bases)),
            blobs=tuple(self.blobs[key] for key in sorted(self.blobs)),
        )

    def take(self, blob: Blob, opener: Opener) -> None:
        """Add the bytes of a file."""
        self.blobs[blob.sha256] = Blob(sha256=blob.sha256, size=blob.size)
        self.openers[blob.sha256] = opener


def gather(adapters: Iterable[str], bases: Iterable[str], source: str | None = None) -> Contents:
    """Look up everything that was named.

    Args:
        adapters: Folders, or references into a store; one that the store does not hold may have been pulled.
        bases: Folders of base models, or ``micro``.
        source: A store's name or address, instead of the one in a reference or the default store.

    Raises:
        AdapterNotFound: A reference names nothing.
        ReferenceFormError: A folder's adapter has no name of its own yet, or two of one name differ.
        EdgeloraError: What is wrong with an adapter or a base.
    """
    contents = Contents()
    for adapter in adapters:
        if is_folder_path(adapter):
            _take_folder(contents, Path(adapter).expanduser())
        else:
            with telling_of_folder(adapter):
                _take_reference(contents, parse_reference(adapter), source)
    for base in bases:
        _take_base(contents, base)
    if not contents.blobs:
        raise ReferenceFormError(
            "a bundle of nothing was asked for", fix="name an adapter, or a base with --base"
        )
    return contents


def _take_reference(contents: Contents, reference: Reference, source: str | None) -> None:
    named = store_named(reference, source)
    store = open_store(named)
    try:
        snapshot = store.resolve(reference)
    except (AdapterNotFound, StoreNotFound):
        pulled = find_pulled(reference) if named is None else None
        if pulled is None:
            raise
        _take_folder(contents, pulled)
        return
    data = store.read_manifest(snapshot.reference)
    manifest = parse_manifest(data, f"the manifest of {snapshot.reference}")
    unlisted = [
        NamedBlob(path=file.path, sha256=file.sha256, size=file.size)
        for file in snapshot.files
        if is_unlisted(file.path) and file.path != MANIFEST_NAME
    ]
    opener = partial(_from_store, store, snapshot)
    _take(contents, manifest, data, unlisted, opener, yanked=snapshot.yanked)


def _take_folder(contents: Contents, folder: Path) -> None:
    manifest = check(folder)
    if manifest.identity.namespace == UNPUBLISHED:
        raise ReferenceFormError(
            f"{folder} holds an adapter that has no name of its own yet",
            fix=f"push it first, edgelora push {folder} NS/NAME, and bundle that",
        )
    data = read_regular(folder, MANIFEST_NAME, limit=MAX_MANIFEST_BYTES)
    unlisted = [
        NamedBlob(path=path, **_measured(folder, path))
        for path, _ in sorted(walk(folder))
        if is_unlisted(path) and path != MANIFEST_NAME
    ]
    _take(contents, manifest, data, unlisted, partial(_from_folder, folder), yanked=None)


def _take(
    contents: Contents,
    manifest: Manifest,
    data: bytes,
    unlisted: list[NamedBlob],
    opener: Callable[[str], BinaryIO],
    *,
    yanked: str | None,
) -> None:
    identity = manifest.identity
    for entry in manifest.files:
        fix = f"carry {identity.namespace}/{identity.name} in a mirror on a disk instead: edgelora push --to"
        _refuse_long(entry.path, entry.size, fix=fix)
    adapter = BundledAdapter(
        namespace=identity.namespace,
        name=identity.name,
        version=identity.version,
        manifest=Blob(sha256=hashlib.sha256(data).hexdigest(), size=len(data)),
        unlisted=tuple(sorted(unlisted, key=lambda file: file.path)),
        yanked=yanked,
    )
    key = str(adapter.reference)
    before = contents.adapters.setdefault(key, adapter)
    if before.manifest != adapter.manifest:
        raise ReferenceFormError(
            f"two adapters of the name {key} were named, with other content each", fix="leave one of them out"
        )
    contents.take(adapter.manifest, partial(opener, MANIFEST_NAME))
    files: list[FileEntry | NamedBlob] = [*manifest.files, *adapter.unlisted]
    for file in files:
        contents.take(Blob(sha256=file.sha256, size=file.size), partial(opener, file.path))


def _take_base(contents: Contents, base: str) -> None:
    folder = micro.path() if base == "micro" else Path(base).expanduser()
    if not folder.is_dir():
        raise MissingFile(
            f"there is no base model folder {folder}", fix="pass the folder of a base model, or micro"
        )
    if record := prepared_base(folder):
        raise BundleError(
            f"{folder} is a prepared base, and what it was made from is only its own word",
            fix=f"take the unquantized {record.source.repo} along, and prepare it where the bundle goes",
        )
    for path in weights_files(folder):
        _refuse_long(str(folder / path), (folder / path).stat().st_size, fix=_SHARDS)
    about = identify_base(folder, repo="micro" if base == "micro" else None)
    weights = {file.path: {"sha256": file.sha256, "size": file.size} for file in about.weights}
    others = {*_BASE_FILES, INDEX_NAME if weights_files(folder) != [SINGLE_NAME] else ""}
    small = {path: _measured(folder, path) for path in others if path and (folder / path).is_file()}
    files = tuple(NamedBlob(path=path, **known) for path, known in sorted((weights | small).items()))
    contents.bases[about.tensors_digest] = BundledBase(
        repo=about.repo, tensors_digest=about.tensors_digest, files=files
    )
    for file in files:
        contents.take(file, partial(_from_base, folder, file.path))


def _refuse_long(path: str, size: int, *, fix: str) -> None:
    if size > MAX_MEMBER_BYTES:
        raise BundleError(
            f"{path} has {size} bytes, and a file in a bundle has at most {MAX_MEMBER_BYTES} (8 GiB less 1)",
            fix=fix,
        )


def _measured(folder: Path, path: str) -> dict[str, int | str]:
    with open(folder / path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        return {"sha256": digest, "size": file.tell()}


def _from_store(store: Store, snapshot: Snapshot, path: str) -> BinaryIO:
    return store.open_file(snapshot, path)


def _from_folder(folder: Path, path: str) -> BinaryIO:
    return cast(BinaryIO, open_regular(folder, path))


def _from_base(folder: Path, path: str) -> BinaryIO:
    # The user's own folder: in the Hub's cache every file is a link.
    return open(folder / path, "rb")
