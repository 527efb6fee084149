"""What is kept of remote stores on this machine: listing, removing, pruning and checking it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from edgelora.errors import AdapterNotFound
from edgelora.store import parse_reference
from edgelora.store.blob_cache import BlobCache, CachedBlob
from edgelora.store.pins import Pin, forget_pins, read_pins

_DIGEST = re.compile(r"(?:sha256:)?([0-9a-f]{12,64})")


@dataclass(frozen=True, slots=True)
class CacheEntry:
    """One file in the cache."""

    sha256: str
    size_bytes: int
    used_at: float
    """Seconds since 1970."""
    used_by: tuple[str, ...]
    """``ns/name@version (endpoint): path`` for each version known to need it."""


@dataclass(frozen=True, slots=True)
class CacheCheck:
    """What hashing everything again has found."""

    intact: int
    dropped: tuple[str, ...]
    """Digests of entries that were damaged, and are gone."""


def list_cache() -> list[CacheEntry]:
    """Everything in the cache, what was used last first."""
    return _entries(BlobCache().entries())


def cached_files(names: Iterable[str]) -> list[CacheEntry]:
    """The entries that digests or adapters name.

    Args:
        names: Each a digest, of which 12 digits are enough, or ``ns/name`` or ``ns/name@version``. Of an
            adapter, files that another version needs as well are left out.

    Raises:
        AdapterNotFound: The cache holds nothing of this name.
    """
    entries, pins = list_cache(), read_pins()
    wanted: set[str] = set()
    for name in names:
        found = _named(name, entries, pins)
        if not found:
            raise AdapterNotFound(
                f"the cache holds nothing of {name[:80]!r}", fix="see what it holds: edgelora cache list"
            )
        wanted |= found
    return [entry for entry in entries if entry.sha256 in wanted]


def prunable(*, older_than_s: float | None = None, max_bytes: int | None = None) -> list[CacheEntry]:
    """Entries that were not used for so long, then those used longest ago until the rest fits."""
    return _entries(BlobCache().to_prune(older_than_s=older_than_s, max_bytes=max_bytes))


def remove_cached(entries: Iterable[CacheEntry]) -> None:
    """Delete entries. Pulled adapters stay, and so does what a running pull has taken from the cache."""
    digests = {entry.sha256 for entry in entries}
    BlobCache().remove(digests)
    forget_pins(digests)


def verify_cache() -> CacheCheck:
    """Hash everything again and drop what is damaged."""
    intact, dropped = BlobCache().verify()
    forget_pins(set(dropped))
    return CacheCheck(intact, tuple(dropped))


def _entries(blobs: Iterable[CachedBlob]) -> list[CacheEntry]:
    users: dict[str, list[str]] = {}
    for pin in read_pins():
        for file in pin.files:
            users.setdefault(file.sha256, []).append(f"{_reference(pin)} ({pin.endpoint}): {file.path}")
    return [
        CacheEntry(blob.sha256, blob.size, blob.used_at, tuple(users.get(blob.sha256, ()))) for blob in blobs
    ]


def _named(name: str, entries: list[CacheEntry], pins: list[Pin]) -> set[str]:
    match = _DIGEST.fullmatch(name)
    if match:
        return {entry.sha256 for entry in entries if entry.sha256.startswith(match[1])}
    reference = parse_reference(name)
    meant = {
        pin for pin in pins if pin.adapter == reference.adapter and reference.version in (None, pin.version)
    }
    kept = {file.sha256 for pin in pins if pin not in meant for file in pin.files}
    return {file.sha256 for pin in meant for file in pin.files} - kept


def _reference(pin: Pin) -> str:
    return f"{pin.adapter}@{pin.version}"
