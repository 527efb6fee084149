"""What a remote store has to remember of an adapter: removed and withdrawn versions, later signatures.

The records are small files on a branch of their own, so that neither a version nor `main` ever changes for
them: ``removed/<version>.json``, ``yanked/<version>.json``, ``signatures/<version>.json``.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import BinaryIO, cast

from edgelora.errors import DigestMismatch
from edgelora.manifest import MANIFEST_NAME, MAX_MANIFEST_BYTES
from edgelora.store.http_reply import NotThere, refused
from edgelora.store.hub import HubClient
from edgelora.store.hub_repository import GENERATED, HubRepository, Refs
from edgelora.store.protocol import StoredFile
from edgelora.store.records import damaged_removal
from edgelora.store.versions import is_version
from edgelora.store.yanks import MAX_YANK_BYTES, REASON_LOST, Yank

BRANCH = "edgelora-records"
MAX_TOMBSTONE_BYTES = 4096

_MAX_RECORDS = 1000
"""Each costs a request."""

_COMMIT = re.compile(r"[0-9a-f]{40}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Tombstone:
    """A removed version: what it was, so that nothing else is ever published under it."""

    adapter: str
    version: str
    commit: str
    manifest: StoredFile
    release_sequence: int

    def encode(self) -> bytes:
        """The same bytes whenever the version is removed."""
        document = {
            "format": 1,
            "adapter": self.adapter,
            "version": self.version,
            "commit": self.commit,
            "manifest": {"size": self.manifest.size, "sha256": self.manifest.sha256},
            "releaseSequence": self.release_sequence,
        }
        return (json.dumps(document, sort_keys=True, indent=1) + "\n").encode()

    @classmethod
    def parse(cls, data: bytes, where: str) -> Tombstone:
        """Read a tombstone.

        Raises:
            DigestMismatch: It is not exactly what this class writes.
        """
        try:
            document = json.loads(data)
            manifest = StoredFile(MANIFEST_NAME, document["manifest"]["size"], document["manifest"]["sha256"])
            tombstone = cls(
                adapter=document["adapter"],
                version=document["version"],
                commit=document["commit"],
                manifest=manifest,
                release_sequence=document["releaseSequence"],
            )
            counts = (manifest.size, tombstone.release_sequence)
            if not (
                tombstone.encode() == data
                and all(type(count) is int and count >= 0 for count in counts)
                and _COMMIT.fullmatch(tombstone.commit)
                and _SHA256.fullmatch(manifest.sha256)
            ):
                raise ValueError("a member has a wrong value")
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise damaged_removal(where, f"is not the record of a removed version ({error})") from error
        return tombstone


class HubRecords:
    """The records of one adapter, as they were when its refs were read."""

    def __init__(self, repository: HubRepository, adapter: str, refs: Refs) -> None:
        self._repository = repository
        self._adapter = adapter
        self._refs = refs
        self.head = refs.branches.get(BRANCH)
        """The newest commit of the records, or None."""
        self._files = repository.tree(self.head) if self.head else {}

    def tombstones(self) -> list[Tombstone]:
        """Of every version that was ever removed, also of those that came back."""
        return [self.tombstone(version) for version in self._versions("removed")]

    def tombstone(self, version: str) -> Tombstone:
        """Of one version that has one.

        Raises:
            DigestMismatch: It is damaged, or of another version.
        """
        path, data = self._read("removed", version, MAX_TOMBSTONE_BYTES)
        found = Tombstone.parse(data, path)
        if (found.adapter, found.version) != (self._adapter, version):
            raise damaged_removal(path, f"is of {found.adapter}@{found.version}")
        return found

    def has_tombstone(self, version: str) -> bool:
        """Whether a version was ever removed."""
        return tombstone_path(version) in self._files

    def yanked(self) -> dict[str, str]:
        """Withdrawn versions with their reasons. A damaged record still withdraws its version."""
        return {version: self._reason(version) for version in self._versions("yanked")}

    def is_yanked(self, version: str) -> bool:
        """Whether a version was withdrawn."""
        return yank_path(version) in self._files

    def reason(self, version: str) -> str | None:
        """Why a version was withdrawn; None if it was not."""
        return self._reason(version) if self.is_yanked(version) else None

    def signature(self, version: str) -> bytes | None:
        """The signature file a version got after it was published; None if it has that of its commit."""
        if signature_path(version) not in self._files:
            return None
        return self._read("signatures", version, MAX_MANIFEST_BYTES)[1]

    def write(
        self, client: HubClient, new: Mapping[str, bytes], *, message: str, gone: Sequence[str] = ()
    ) -> None:
        """Change records, in one commit on those that were read.

        Raises:
            PublishRaced: Somebody changed them since.
        """
        head = self.head
        if head is None:
            # The branch has to begin somewhere; what it begins with is no record.
            head = next(iter({**self._refs.branches, **self._refs.tags}.values()))
            client.make_branch(self._adapter, BRANCH, start=head)
            gone = sorted(self._repository.tree(head).keys() - GENERATED)
        files = {path: cast("BinaryIO", io.BytesIO(data)) for path, data in new.items()}
        client.commit(self._adapter, files, list(gone), parent=head, message=message, branch=BRANCH)

    def _reason(self, version: str) -> str:
        try:
            path, data = self._read("yanked", version, MAX_YANK_BYTES)
            yank = Yank.parse(data, path)
        except DigestMismatch:
            return REASON_LOST
        return yank.reason if (yank.adapter, yank.version) == (self._adapter, version) else REASON_LOST

    def _versions(self, folder: str) -> list[str]:
        names = (path.removeprefix(f"{folder}/").removesuffix(".json") for path in self._files)
        found = sorted(name for name in names if is_version(name) and f"{folder}/{name}.json" in self._files)
        if len(found) > _MAX_RECORDS:
            raise refused(self._adapter, f"holds more than {_MAX_RECORDS} records of {folder} versions")
        return found

    def _read(self, folder: str, version: str, limit: int) -> tuple[str, bytes]:
        path = f"{folder}/{version}.json"
        try:
            return path, self._repository.read(str(self.head), path, limit)
        except NotThere as error:
            raise damaged_removal(path, "is listed, and not there") from error


def tombstone_path(version: str) -> str:
    """Where a tombstone lies on the branch."""
    return f"removed/{version}.json"


def signature_path(version: str) -> str:
    """Where a version's later signatures lie on the branch."""
    return f"signatures/{version}.json"


def yank_path(version: str) -> str:
    """Where a withdrawal lies on the branch."""
    return f"yanked/{version}.json"
