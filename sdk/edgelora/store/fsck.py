"""Checking a directory mirror from end to end. Nothing is changed: what is wrong is reported."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from edgelora.confined import open_regular
from edgelora.errors import EdgeloraError
from edgelora.store.blobs import blob_path
from edgelora.store.records import MAX_POINTER_BYTES, Commit, Pointer
from edgelora.store.repository import MODELS, Repository, names, repository_names
from edgelora.store.yanks import Yanks

_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is not as it was written."""

    path: str
    """Below the root of the mirror."""
    problem: str


@dataclass(frozen=True, slots=True)
class Report:
    """What a check of a mirror found."""

    adapters: int
    versions: int
    blobs: int
    size_bytes: int
    unfinished: int
    """Files in ``tmp/``: pushes that run now or died. They do no harm."""
    problems: tuple[Problem, ...]

    @property
    def is_clean(self) -> bool:
        """Whether everything that is visible is as it was written."""
        return not self.problems


def check_mirror(root: Path) -> Report:
    """Hash every blob and commit again, and follow every ref to its last blob."""
    sizes: dict[str, int] = {}
    problems = list(_check_blobs(root, sizes))
    version_count = 0
    repositories = repository_names(root)
    for namespace, name in repositories:
        repository = Repository(root, namespace, name)
        where = f"{MODELS}/{namespace}--{name}/refs"
        for version in repository.versions():
            version_count += 1
            try:
                commit, _ = repository.commit(version)
            except EdgeloraError as error:
                problems.append(Problem(f"{where}/tags/{version}", error.problem))
                continue
            problems += _check_files(f"{where}/tags/{version}", commit, sizes)
        problems += _check_removals(repository, where)
        problems += _check_yanks(Yanks(root, namespace, name), repository, f"{where}/yanked")
        problems += _check_main(root, repository, f"{where}/heads/main")
    return Report(
        adapters=len(repositories),
        versions=version_count,
        blobs=len(sizes),
        size_bytes=sum(sizes.values()),
        unfinished=len(names(root / "tmp")),
        problems=tuple(problems),
    )


def _check_blobs(root: Path, sizes: dict[str, int]) -> Iterator[Problem]:
    """Fill ``sizes`` with the blobs that hold what their name says."""
    top = root / "blobs" / "sha256"
    for shard in sorted(os.listdir(top)) if top.is_dir() else ():
        folder = top / shard
        for name in sorted(os.listdir(folder)) if folder.is_dir() and not folder.is_symlink() else ():
            path = f"blobs/sha256/{shard}/{name}"
            if not _SHA256.fullmatch(name) or path != blob_path(name):
                yield Problem(path, "is not named like a blob of this directory")
                continue
            try:
                with open_regular(root, path) as blob:
                    size = os.fstat(blob.fileno()).st_size
                    digest = hashlib.file_digest(blob, "sha256").hexdigest()
            except EdgeloraError as error:
                yield Problem(path, error.problem)
                continue
            if digest == name:
                sizes[name] = size
            else:
                yield Problem(path, f"holds other bytes: they hash to {digest}")


def _check_files(where: str, commit: Commit, sizes: dict[str, int]) -> Iterator[Problem]:
    for file in commit.files:
        size = sizes.get(file.sha256)
        if size is None:
            yield Problem(where, f"{file.path} is lost: blob {file.sha256} is missing or damaged")
        elif size != file.size:
            yield Problem(where, f"{file.path} should have {file.size} bytes, its blob has {size}")


def _check_removals(repository: Repository, where: str) -> Iterator[Problem]:
    """A tombstone beside a tag is no problem if both are of the same content."""
    published = {commit.version: commit.manifest for commit, _ in repository.commits()}
    for version in repository.removed_versions():
        path = f"{where}/removed/{version}"
        try:
            removal = repository.removal(version)
        except EdgeloraError as error:
            yield Problem(path, error.problem)
            continue
        if removal and published.get(version, removal.manifest) != removal.manifest:
            yield Problem(path, f"{version} was removed with other content than is published under it now")


def _check_yanks(yanks: Yanks, repository: Repository, where: str) -> Iterator[Problem]:
    """A yank is of a version that is there or was removed, and of its content."""
    known = {removal.version: removal.manifest for removal in repository.removals()}
    known |= {commit.version: commit.manifest for commit, _ in repository.commits()}
    told = {*repository.versions(), *repository.removed_versions()}
    for version in yanks.versions():
        path = f"{where}/{version}"
        try:
            yank = yanks.record(version)
        except EdgeloraError as error:
            yield Problem(path, error.problem)
            continue
        if version not in told:
            yield Problem(path, f"{version} is yanked, and was never published")
        elif yank and known.get(version, yank.manifest) != yank.manifest:
            yield Problem(path, f"{version} was yanked with other content than is published under it now")


def _check_main(root: Path, repository: Repository, where: str) -> Iterator[Problem]:
    """``main`` may lag behind a version, a removal or a signature after a crash, but points at something."""
    if not (root / where).exists():
        return
    commits = list(repository.commits())
    known = {pointer for _, pointer in commits}
    replaced = {commit.parent for commit, _ in commits}
    removed = {removal.pointer for removal in repository.removals()}
    try:
        with open_regular(root, where) as file:
            pointer = Pointer.parse(file.read(MAX_POINTER_BYTES + 1), where)
    except EdgeloraError as error:
        yield Problem(where, error.problem)
        return
    if known and pointer not in known | removed and pointer.oid not in replaced:
        yield Problem(where, f"points at {pointer.oid}, which no tag names")
