"""Digests of big files, remembered while the file's device, inode, size, mtime and ctime stay the same.

Anybody may set an mtime back; a ctime is set by the kernel at every change of content or inode, so who forges
one can also write to the disk below the file system. A new link or mode costs a new hash.

The cache saves time and decides nothing else: a record that is missing, damaged or unwritable costs a new
hash. A file changed within the last two seconds is not remembered, for a second change of the same size
could leave its times as they are.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from contextlib import suppress
from pathlib import Path

from edgelora.errors import DiskFull
from edgelora.files import atomic_write
from edgelora.locations import cache_dir

_SETTLED_NS = 2_000_000_000
_FORM = 2


class DigestCache:
    """The remembered digests of one file.

    Args:
        status: Of the open file.
    """

    def __init__(self, status: os.stat_result) -> None:
        changed_ns = max(status.st_mtime_ns, status.st_ctime_ns)
        self._key = [
            status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
        ]  # fmt: skip
        self._is_settled = time.time_ns() - changed_ns > _SETTLED_NS

    @property
    def path(self) -> Path:
        """Where the record is kept."""
        name = hashlib.sha256(json.dumps(self._key).encode()).hexdigest()
        return cache_dir() / "digests" / f"{name}.json"

    def read(self) -> object:
        """The record, or None."""
        try:
            record = json.loads(self.path.read_bytes())
        except (OSError, ValueError, RecursionError):
            return None
        if isinstance(record, dict) and record.get("form") == _FORM and record.get("key") == self._key:
            return record.get("digests")
        return None

    def write(self, digests: object) -> None:
        """Remember the digests, if the file is settled and the cache can be written."""
        if self._is_settled:
            record = {"form": _FORM, "key": self._key, "digests": digests}
            with suppress(OSError, DiskFull):
                atomic_write(self.path, json.dumps(record).encode())
