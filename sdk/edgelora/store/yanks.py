"""Withdrawn versions of a directory mirror: the record beside the tag, and what a reader makes of it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from edgelora.confined import read_regular
from edgelora.errors import DigestMismatch, MissingFile, PathError, ReferenceFormError, Yanked
from edgelora.files import fsync_dir
from edgelora.manifest import MANIFEST_NAME
from edgelora.store.blobs import BlobPool
from edgelora.store.protocol import StoredFile
from edgelora.store.records import Commit
from edgelora.store.reference import Reference
from edgelora.store.repository import MODELS, names
from edgelora.store.versions import is_version, latest_version, sort_versions

MAX_YANK_BYTES = 8192
MAX_REASON_LENGTH = 500
REASON_LOST = "the reason is lost: its record is damaged"


@dataclass(frozen=True, slots=True)
class Yank:
    """The record of a withdrawn version: which content it was, and why."""

    adapter: str
    version: str
    manifest: StoredFile
    reason: str
    yanked_at: str

    @classmethod
    def of(cls, commit: Commit, reason: str) -> Yank:
        """Withdraw what was published by this commit, now."""
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        return cls(commit.adapter, commit.version, commit.manifest, reason, now)

    def encode(self) -> bytes:
        """What the record's file holds."""
        document = {
            "format": 1,
            "adapter": self.adapter,
            "version": self.version,
            "manifest": {"size": self.manifest.size, "sha256": self.manifest.sha256},
            "reason": self.reason,
            "yankedAt": self.yanked_at,
        }
        return (json.dumps(document, sort_keys=True, indent=1) + "\n").encode()

    @classmethod
    def parse(cls, data: bytes, where: str) -> Yank:
        """Read a record.

        Raises:
            DigestMismatch: It is not exactly what this class writes.
        """
        try:
            document = json.loads(data)
            manifest = StoredFile(MANIFEST_NAME, document["manifest"]["size"], document["manifest"]["sha256"])
            texts = [document[member] for member in ("adapter", "version", "reason", "yankedAt")]
            yank = cls(texts[0], texts[1], manifest, texts[2], texts[3])
            if not (
                all(isinstance(text, str) for text in texts)
                and type(manifest.size) is int
                and manifest.size >= 0
                and re.fullmatch(r"[0-9a-f]{64}", manifest.sha256)
                and yank.encode() == data
            ):
                raise ValueError("a member has a wrong value")
            check_reason(yank.reason)
        except (ValueError, KeyError, TypeError, RecursionError, ReferenceFormError) as error:
            raise _damaged(where, f"is not the record of a yanked version ({error})") from error
        return yank


class Yanks:
    """The withdrawn versions of one adapter. Writers hold the repository's lock.

    A record that cannot be read still withdraws its version: only its reason is lost.
    """

    def __init__(self, root: Path, namespace: str, name: str) -> None:
        self._root = root
        self._adapter = f"{namespace}/{name}"
        self._path = f"{MODELS}/{namespace}--{name}/refs/yanked"

    def versions(self) -> list[str]:
        """Versions that have a record, the lowest first."""
        return sort_versions(filter(is_version, names(self._root / self._path)))

    def reasons(self) -> dict[str, str]:
        """Why each of them was withdrawn."""
        return {version: self.reason(version) or REASON_LOST for version in self.versions()}

    def reason(self, version: str) -> str | None:
        """Why a version was withdrawn; None if it was not."""
        try:
            record = self.record(version)
        except (DigestMismatch, PathError):
            return REASON_LOST
        return record.reason if record else None

    def record(self, version: str) -> Yank | None:
        """The record of a version.

        Raises:
            DigestMismatch: It is damaged, or of another adapter or version.
        """
        relative = f"{self._path}/{version}"
        where = str(self._root / relative)
        try:
            yank = Yank.parse(read_regular(self._root, relative, limit=MAX_YANK_BYTES), where)
        except MissingFile:
            return None
        if (yank.adapter, yank.version) != (self._adapter, version):
            raise _damaged(where, f"is of {yank.adapter}@{yank.version}, not {self._adapter}@{version}")
        return yank

    def write(self, yank: Yank, pool: BlobPool) -> None:
        """Withdraw a version; a later reason replaces an earlier one."""
        pool.place(f"{self._path}/{yank.version}", yank.encode())

    def clear(self, version: str) -> None:
        """Take a withdrawal back."""
        folder = self._root / self._path
        with suppress(FileNotFoundError):
            (folder / version).unlink()
            fsync_dir(folder)


def check_reason(reason: str) -> None:
    """Refuse a reason that could not be shown in one line.

    Raises:
        ReferenceFormError: It is empty, too long, or holds characters that are not printed.
    """
    if not reason.strip() or len(reason) > MAX_REASON_LENGTH or not reason.isprintable():
        raise ReferenceFormError(
            f"{reason[:80]!r} is not a reason that can be shown",
            fix=f"say in one line of at most {MAX_REASON_LENGTH} characters what is wrong with the version",
        )


def latest_offered(reference: Reference, versions: Iterable[str], yanked: dict[str, str]) -> str | None:
    """The latest version that was not withdrawn; None where there are no versions at all.

    Raises:
        Yanked: All of them were.
    """
    published = sort_versions(versions)
    latest = latest_version(version for version in published if version not in yanked)
    if latest is None and published:
        last = published[-1]
        raise Yanked(
            f"every version of {reference.adapter} was yanked, {last} because: {yanked[last]}",
            fix=f"ask its publisher for a new version; to take this one anyway, "
            f"edgelora pull {reference.at(last)} --allow-yanked",
        )
    return latest


def _damaged(where: str, problem: str) -> DigestMismatch:
    return DigestMismatch(f"{where} {problem}", fix="yank the version again, with its reason, or undo it")
