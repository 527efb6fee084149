"""Which rows are held out: decided by what they say, not by where they stand or by a seed."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from edgelora.engine.data.content import Content, canonical


def content_hash(content: Content) -> bytes:
    """SHA-256 of what a row says: the same for the same content in another file or format."""
    return hashlib.sha256(canonical(content).encode("utf-8")).digest()


def choose_held_out(hashes: Iterable[bytes], fraction: float) -> set[bytes]:
    """About ``fraction`` of the distinct ``hashes``: those that are small as numbers.

    A row keeps its side when others are added, removed or reordered, and duplicates share one. Of two or more
    distinct rows at least one is on either side, unless ``fraction`` is 0 or 1.
    """
    distinct = sorted(set(hashes))
    if fraction == 1:
        return set(distinct)
    if fraction == 0 or len(distinct) < 2:
        return set()
    limit = int(fraction * 2**64)
    chosen = sum(int.from_bytes(digest[:8], "big") < limit for digest in distinct)
    return set(distinct[: min(max(chosen, 1), len(distinct) - 1)])


def split_digest(rows: Iterable[tuple[str, bytes]]) -> str:
    """``sha256:`` of an ordered list of rows, each a task and a `content_hash`."""
    digest = hashlib.sha256()
    for task, row in rows:
        digest.update(f"{task} {row.hex()}\n".encode())
    return f"sha256:{digest.hexdigest()}"
