"""One repository of a remote store, as its API shows it: branches, tags, files of a commit, short files."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlencode

from edgelora.manifest import MANIFEST_NAME, MAX_MANIFEST_BYTES
from edgelora.store.http_reading import HttpReader
from edgelora.store.http_reply import NotThere, refused
from edgelora.store.remote_file import RemoteFile
from edgelora.store.versions import is_version, sort_versions

CARD_TAG = "edgelora"
GENERATED = frozenset({".gitattributes"})
"""What the Hub itself puts into a repository. Never part of an adapter."""

_COMMIT = re.compile(r"[0-9a-f]{40}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_REPOSITORY = re.compile(r"[^/]+/[^/]+")
_MAX_PAGES = 100
_MAX_ENTRIES = 20_000
_MAX_LIST_BYTES = 32 * 2**20


@dataclass(frozen=True, slots=True)
class Refs:
    """What names the commits of a repository."""

    branches: dict[str, str]
    tags: dict[str, str]
    """Those that are semantic versions."""

    @property
    def versions(self) -> list[str]:
        """The lowest first."""
        return sort_versions(self.tags)


@dataclass(frozen=True, slots=True)
class TreeFile:
    """A file of a commit, as far as the endpoint knows it."""

    size: int
    sha256: str | None
    """Known of large files only."""


class HubRepository:
    """Reads one repository.

    Args:
        reader: Of the endpoint.
        adapter: ``ns/name``.
    """

    def __init__(self, reader: HttpReader, adapter: str) -> None:
        self._reader = reader
        self._adapter = adapter
        self._api = f"api/models/{quote(adapter)}"

    def refs(self) -> Refs | None:
        """Branches and versions; None where there is no such repository, or it may not be seen."""
        named = self._every_ref()
        if named is None:
            return None
        branches, tags = named
        return Refs(branches, {name: commit for name, commit in tags.items() if is_version(name)})

    def commit_of(self, revision: str) -> str | None:
        """The commit that a branch or any tag names now, or that has this name; None where there is none."""
        if _COMMIT.fullmatch(revision):
            return revision
        branches, tags = self._every_ref() or ({}, {})
        return branches.get(revision) or tags.get(revision)

    def tree(self, commit: str) -> dict[str, TreeFile]:
        """Every file of a commit, by path; none of a commit that is not there, or empty."""
        path = f"{self._api}/tree/{commit}?recursive=true&expand=false"
        files = {}
        try:
            for entry in pages(self._reader, path):
                if not isinstance(entry, dict) or entry.get("type") not in ("file", "directory"):
                    raise refused(path, "lists what is neither a file nor a directory")
                if entry["type"] == "file":
                    name, file = _tree_file(path, entry)
                    files[name] = file
        except NotThere:
            return {}
        return files

    def read(self, commit: str, path: str, limit: int) -> bytes:
        """A short file of a commit.

        Raises:
            NotThere: The commit holds no such file.
        """
        return self._reader.read(self._resolve(commit, path), limit)[0]

    def manifest(self, commit: str) -> bytes | None:
        """The bytes of ``edgelora.json``; None where the commit has none."""
        try:
            return self.read(commit, MANIFEST_NAME, MAX_MANIFEST_BYTES)
        except NotThere:
            return None

    def open_file(self, commit: str, path: str, *, size: int, offset: int) -> RemoteFile:
        """The bytes of one file from ``offset`` on."""
        return RemoteFile(self._reader, self._resolve(commit, path), size=size, offset=offset)

    def _resolve(self, commit: str, path: str) -> str:
        return f"{quote(self._adapter)}/resolve/{commit}/{quote(path)}"

    def _every_ref(self) -> tuple[dict[str, str], dict[str, str]] | None:
        """Branches and tags, each with its commit."""
        path = f"{self._api}/refs"
        try:
            document = self._reader.document(path).value
        except NotThere:
            return None
        return self._named_commits(path, document, "branches"), self._named_commits(path, document, "tags")

    def _named_commits(self, path: str, document: Any, kind: str) -> dict[str, str]:
        found = document.get(kind) if isinstance(document, dict) else None
        if not isinstance(found, list):
            raise refused(path, f"lists no {kind}")
        commits = {}
        for ref in found:
            name, commit = (
                (ref.get("name"), ref.get("targetCommit")) if isinstance(ref, dict) else (None, None)
            )
            if not isinstance(name, str) or not isinstance(commit, str) or not _COMMIT.fullmatch(commit):
                raise refused(path, f"holds a ref in {kind} that names no commit")
            commits[name] = commit
        return commits


def repository_names(reader: HttpReader, *, author: str | None = None) -> list[str]:
    """``ns/name`` of every repository whose card has edgelora's tag, as the endpoint sees it; sorted."""
    query = {"filter": CARD_TAG, "limit": "1000"} | ({"author": author} if author else {})
    path = f"api/models?{urlencode(query)}"
    names = set()
    try:
        for entry in pages(reader, path):
            name = entry.get("id") if isinstance(entry, dict) else None
            if not isinstance(name, str):
                raise refused(path, "lists a repository without a name")
            if _REPOSITORY.fullmatch(name):
                names.add(name)
    except NotThere as error:
        raise refused(path, "is not there: the endpoint lists no repositories") from error
    return sorted(names)


def pages(reader: HttpReader, path: str) -> Iterator[Any]:
    """The entries of a list that comes in pages, each page let go before the next is asked for.

    Raises:
        ReplyRefused: A page is not a list, or they are too many, too long, or without end.
        StoreUnreachable: All of them together take too long.
    """
    address: str | None = path
    end_s = time.monotonic() + reader.patience.document_s
    entries = size_bytes = 0
    for _ in range(_MAX_PAGES):
        document = reader.document(address or path, time_s=end_s - time.monotonic())
        if not isinstance(document.value, list):
            raise refused(path, "is not a list")
        entries += len(document.value)
        size_bytes += document.size_bytes
        if entries > _MAX_ENTRIES or size_bytes > _MAX_LIST_BYTES:
            raise refused(path, f"lists more than {_MAX_ENTRIES} entries or {_MAX_LIST_BYTES} bytes")
        address = document.next_page
        yield from document.value
        if address is None:
            return
    raise refused(path, f"has more than {_MAX_PAGES} pages")


def _tree_file(path: str, entry: dict[str, Any]) -> tuple[str, TreeFile]:
    large = entry.get("lfs")
    if isinstance(large, dict):
        size, sha256 = large.get("size", entry.get("size")), large.get("oid", large.get("sha256"))
    else:
        size, sha256 = entry.get("size"), None
    name = entry.get("path")
    if (
        not isinstance(name, str)
        or type(size) is not int
        or size < 0
        or not (sha256 is None or (isinstance(sha256, str) and _SHA256.fullmatch(sha256)))
    ):
        raise refused(path, "lists a file without its name, size or digest")
    return name, TreeFile(size, sha256)
