"""The files of an adapter directory: how they are described, and the digest of all of them."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

from edgelora.errors import MissingFile, UnsafeFile
from edgelora.manifest.models import SAFETENSORS_TYPE, FileEntry, is_unlisted
from edgelora.manifest.paths import MAX_SEGMENTS, check_paths

_MEDIA_TYPES = {
    ".safetensors": SAFETENSORS_TYPE,
    ".json": "application/json",
    ".jsonl": "application/x-ndjson",
    ".md": "text/markdown",
    ".txt": "text/plain",
    ".jinja": "text/plain",
    ".yaml": "application/yaml",
    ".yml": "application/yaml",
    ".gguf": "application/vnd.gguf",
}
_TOKENIZER = frozenset(
    {
        "tokenizer.json",
        "tokenizer_config.json",
        "tokenizer.model",
        "special_tokens_map.json",
        "added_tokens.json",
        "vocab.json",
        "vocab.txt",
        "merges.txt",
        "chat_template.jinja",
    }
)


def tree_digest(files: Iterable[FileEntry]) -> str:
    r"""One digest for all files: ``sha256:`` and 64 hex digits, the same in whatever order they are listed.

    sha256 of ``edgelora-tree-v1\n``, then ``<sha256> <size> <path>\n`` for each file, sorted by the UTF-8
    bytes of the path.
    """
    digest = hashlib.sha256(b"edgelora-tree-v1\n")
    for entry in sorted(files, key=lambda entry: entry.path.encode()):
        digest.update(f"{entry.sha256} {entry.size} {entry.path}\n".encode())
    return f"sha256:{digest.hexdigest()}"


def describe_files(folder: Path) -> list[FileEntry]:
    """An entry for every file that a manifest of this folder must list, sorted by path.

    Raises:
        MissingFile: There is no such folder.
        PathError: A file's name is not allowed.
        UnsafeFile: The folder holds a symbolic link or a device.
    """
    if not folder.is_dir():
        raise MissingFile(f"there is no folder {folder}", fix="pass the folder of an adapter")
    paths = []
    for path, entry in walk(folder):
        if not entry.is_file(follow_symlinks=False):
            raise UnsafeFile(f"{path} in {folder} is {kind_of(entry)}", fix="replace it by a regular file")
        if not is_unlisted(path):
            paths.append(path)
    check_paths(paths)
    return [_describe(folder, path) for path in sorted(paths, key=str.encode)]


def walk(folder: Path, prefix: str = "") -> Iterator[tuple[str, os.DirEntry[str]]]:
    """Everything in a folder that is not itself a folder, by its path with ``/``; links are not followed.

    A folder deeper than any path may be is given as such, and not entered.
    """
    with os.scandir(folder) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            path = prefix + entry.name
            if entry.is_dir(follow_symlinks=False) and path.count("/") < MAX_SEGMENTS:
                yield from walk(Path(entry.path), path + "/")
            else:
                yield path, entry


def kind_of(entry: os.DirEntry[str]) -> str:
    """What a thing in a folder is, in words."""
    mode = entry.stat(follow_symlinks=False).st_mode
    kinds = [
        (stat.S_ISLNK, "a symbolic link"),
        (stat.S_ISFIFO, "a pipe"),
        (stat.S_ISSOCK, "a socket"),
        (stat.S_ISDIR, "a folder deeper than a path may be"),
    ]
    return next((name for is_kind, name in kinds if is_kind(mode)), "a device")


def role_of(path: str) -> str:
    """The role of a file, by its name; ``other`` where the name says nothing."""
    folder, _, name = path.lower().rpartition("/")
    if name.endswith(".safetensors"):
        return "head" if name.startswith("head") else "weights"
    if name.startswith(("license", "licence", "notice", "copying")):
        return "license"
    if name.endswith((".cdx.json", ".spdx.json")) or name.startswith("sbom"):
        return "sbom"
    if name in _TOKENIZER:
        return "tokenizer"
    if name.startswith("eval") or folder.split("/")[0].startswith("eval"):
        return "eval"
    if name == "readme.md":
        return "card"
    return "config" if name.endswith((".json", ".yaml", ".yml")) else "other"


def media_type_of(path: str) -> str:
    """The media type of a file, by its name."""
    return _MEDIA_TYPES.get(os.path.splitext(path.lower())[1], "application/octet-stream")


def _describe(folder: Path, path: str) -> FileEntry:
    with open(folder / path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    return FileEntry(path=path, size=size, sha256=sha256, media_type=media_type_of(path), role=role_of(path))
