"""Cold files: what the page cache holds of them is dropped before an arm starts."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path


def drop_from_page_cache(files: Iterable[Path]) -> None:
    """Write the files out and drop them from the page cache.

    Pages that some process has mapped stay where they are.
    """
    for file in files:
        descriptor = os.open(file, os.O_RDONLY)
        try:
            os.fsync(descriptor)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)


def warm_page_cache(files: Iterable[Path], piece_bytes: int = 16 * 2**20) -> None:
    """Read the files once, so that they lie in the page cache."""
    for file in files:
        with open(file, "rb", buffering=0) as opened:
            buffer = bytearray(piece_bytes)
            while opened.readinto(buffer):
                pass
