"""The small records of a directory mirror (spec/v1/mirror.md): a commit, the ref to it, its tombstone."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from typing import Any

from edgelora.errors import DigestMismatch
from edgelora.manifest import MANIFEST_NAME, check_paths
from edgelora.store.protocol import StoredFile
from edgelora.store.versions import is_version

MAX_COMMIT_BYTES = 16 * 2**20
MAX_POINTER_BYTES = 256
MAX_REMOVAL_BYTES = 4096

_POINTER = re.compile(r"([0-9a-f]{40}) ([0-9a-f]{64})\n")
_OID = re.compile(r"[0-9a-f]{40}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Pointer:
    """The content of a ref: which commit, by the id clients know and by the digest that is trusted."""

    oid: str
    sha256: str

    @classmethod
    def to(cls, commit: bytes) -> Pointer:
        """Point at these bytes."""
        # Clients of the Hub protocol demand 40 hex digits; only the SHA-256 protects.
        oid = hashlib.sha1(commit, usedforsecurity=False).hexdigest()
        return cls(oid, hashlib.sha256(commit).hexdigest())

    @classmethod
    def parse(cls, data: bytes, where: str) -> Pointer:
        """Read a ref file.

        Raises:
            DigestMismatch: It is not exactly two digests and a newline.
        """
        match = _POINTER.fullmatch(data.decode("ascii", errors="replace"))
        if match is None:
            raise damaged(where, "does not hold a commit id and a digest")
        return cls(match[1], match[2])

    def encode(self) -> bytes:
        """What the ref file holds."""
        return f"{self.oid} {self.sha256}\n".encode()


@dataclass(frozen=True, slots=True)
class Commit:
    """One published version."""

    adapter: str
    version: str
    sequence: int
    """1 for the first commit of an adapter, and one more than the newest at every later one."""
    release_sequence: int
    """As in the manifest; it outlives the manifest's blob."""
    parent: str | None
    created_at: str
    message: str
    files: tuple[StoredFile, ...]

    @property
    def manifest(self) -> StoredFile:
        """The entry of ``edgelora.json``."""
        return next(file for file in self.files if file.path == MANIFEST_NAME)

    def encode(self) -> bytes:
        """The immutable bytes that are hashed."""
        document = {
            "format": 1,
            "adapter": self.adapter,
            "version": self.version,
            "sequence": self.sequence,
            "releaseSequence": self.release_sequence,
            "parent": self.parent,
            "createdAt": self.created_at,
            "message": self.message,
            "files": [{"path": file.path, "size": file.size, "sha256": file.sha256} for file in self.files],
        }
        return (json.dumps(document, sort_keys=True, indent=1, ensure_ascii=False) + "\n").encode()

    @classmethod
    def parse(cls, data: bytes, where: str) -> Commit:
        """Read a commit whose digest was checked.

        Raises:
            DigestMismatch: A member is missing or has another type.
            PathError: It lists a file name that is not allowed.
        """
        try:
            return cls._from_document(json.loads(data))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise damaged(where, f"is not a commit record ({error})") from error

    @classmethod
    def _from_document(cls, document: dict[str, Any]) -> Commit:
        if document["format"] != 1:
            raise ValueError(f"format {document['format']!r} is unknown")
        files = tuple(StoredFile(file["path"], file["size"], file["sha256"]) for file in document["files"])
        texts = [document["adapter"], document["createdAt"], document["message"], *(f.path for f in files)]
        counts = [document["sequence"], document["releaseSequence"], *(file.size for file in files)]
        parent = document["parent"]
        if not (
            all(isinstance(text, str) for text in texts)
            and all(type(count) is int and count >= 0 for count in counts)
            and all(_SHA256.fullmatch(file.sha256) for file in files)
            and (parent is None or _OID.fullmatch(parent))
            and is_version(document["version"])
            and MANIFEST_NAME in {file.path for file in files}
        ):
            raise ValueError("a member has a wrong value")
        check_paths(file.path for file in files)
        return cls(
            adapter=document["adapter"],
            version=document["version"],
            sequence=document["sequence"],
            release_sequence=document["releaseSequence"],
            parent=parent,
            created_at=document["createdAt"],
            message=document["message"],
            files=files,
        )


@dataclass(frozen=True, slots=True)
class Removal:
    """A removed version's tombstone: what it was, so that nothing else is ever published under it."""

    adapter: str
    version: str
    pointer: Pointer
    """As its tag was."""
    manifest: StoredFile
    sequence: int
    release_sequence: int

    @classmethod
    def of(cls, commit: Commit, pointer: Pointer) -> Removal:
        """What has to be remembered of a version."""
        return cls(
            adapter=commit.adapter,
            version=commit.version,
            pointer=pointer,
            manifest=commit.manifest,
            sequence=commit.sequence,
            release_sequence=commit.release_sequence,
        )

    def encode(self) -> bytes:
        """The same bytes whenever the version is removed."""
        document = {
            "format": 1,
            "adapter": self.adapter,
            "version": self.version,
            "commit": {"id": self.pointer.oid, "sha256": self.pointer.sha256},
            "manifest": {"size": self.manifest.size, "sha256": self.manifest.sha256},
            "sequence": self.sequence,
            "releaseSequence": self.release_sequence,
        }
        return (json.dumps(document, sort_keys=True, indent=1) + "\n").encode()

    @classmethod
    def parse(cls, data: bytes, where: str) -> Removal:
        """Read a tombstone.

        Raises:
            DigestMismatch: It is not exactly what this class writes.
        """
        try:
            document = json.loads(data)
            commit, manifest = document["commit"], document["manifest"]
            removal = cls(
                adapter=document["adapter"],
                version=document["version"],
                pointer=Pointer.parse(f"{commit['id']} {commit['sha256']}\n".encode(), where),
                manifest=StoredFile(MANIFEST_NAME, manifest["size"], manifest["sha256"]),
                sequence=document["sequence"],
                release_sequence=document["releaseSequence"],
            )
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise damaged_removal(where, f"is not the record of a removed version ({error})") from error
        counts = (removal.manifest.size, removal.sequence, removal.release_sequence)
        if removal.encode() != data or not all(type(count) is int and count >= 0 for count in counts):
            raise damaged_removal(where, "is not the record of a removed version")
        return removal


def damaged(where: str, problem: str) -> DigestMismatch:
    """The error for a record that cannot be what was written."""
    return DigestMismatch(
        f"{where} {problem}",
        fix="the mirror is damaged there: publish again from the source, or use another mirror",
    )


def damaged_removal(where: str, problem: str) -> DigestMismatch:
    """The error for a tombstone that cannot be what was written."""
    return DigestMismatch(
        f"{where} {problem}",
        fix="publish under another version, or restore this file from a copy of the mirror",
    )
