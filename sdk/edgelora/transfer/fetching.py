"""Fetching the files of an adapter: from the cache first, then from the store, several at a time."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from functools import partial
from typing import BinaryIO

from edgelora.manifest import FileEntry
from edgelora.store import Snapshot, Store, StoredFile
from edgelora.store.blob_cache import BlobCache
from edgelora.store.endpoint import endpoint_url
from edgelora.store.pins import write_pin
from edgelora.transfer.staging import Staging

CONNECTIONS = 4


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a pull is."""

    done_bytes: int
    """Fetched by this pull."""
    total_bytes: int
    """To be fetched by it, as far as it was not there."""
    elapsed_s: float


OnProgress = Callable[[Progress], None]


def is_remote(store: Store) -> bool:
    """Whether reading from a store costs a network."""
    return not store.address.startswith("file://")


def take_cached(staging: Staging) -> None:
    """Put in place what former pulls fetched, and is still whole."""
    cache = BlobCache()
    for entry in staging.missing():
        cache.take(StoredFile(entry.path, entry.size, entry.sha256), staging.adapter / entry.path)


def keep_fetched(store: Store, snapshot: Snapshot, staging: Staging) -> None:
    """Remember a verified adapter, so that pulling it again needs no network."""
    cache = BlobCache()
    for file in snapshot.files:
        if (staging.adapter / file.path).is_file():
            cache.keep(staging.adapter / file.path, file)
    write_pin(endpoint_url(store.address), snapshot)


def fetch_files(
    store: Store, snapshot: Snapshot, staging: Staging, on_progress: OnProgress | None = None
) -> int:
    """Fetch what is missing; the bytes read.

    From a remote store several files come at a time; the first failure stops the others, and what each of
    them has fetched is kept.

    Raises:
        EdgeloraError: What fetching the first file that failed raised.
    """
    missing = staging.missing()
    count = _Count(sum(entry.size for entry in missing) - staging.begun_bytes(), on_progress)

    def fetch_group(entries: list[FileEntry]) -> int:
        return sum(staging.fetch(entry, partial(open_at, entry.path), count) for entry in entries)

    def open_at(path: str, offset: int) -> BinaryIO:
        return count.opened(store.open_file(snapshot, path, offset=offset))

    groups = _by_digest(missing)
    if not is_remote(store):
        return sum(map(fetch_group, groups))
    with ThreadPoolExecutor(CONNECTIONS, thread_name_prefix="fetch") as pool:
        futures = [pool.submit(fetch_group, group) for group in groups]
        try:
            done, _ = wait(futures, return_when=FIRST_EXCEPTION)
            return sum(_results(done, futures))
        finally:
            # Also when the keyboard interrupts: the others stop at their next piece.
            count.stop()
            for future in futures:
                future.cancel()


class Stopped(Exception):
    """Another file failed, or the user stopped the pull."""


class _Count:
    """Adds up what arrives in all threads, and tells them to stop."""

    def __init__(self, total: int, on_progress: OnProgress | None) -> None:
        self._total = total
        self._on_progress = on_progress
        self._done = 0
        self._start_s = time.monotonic()
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._open: list[BinaryIO] = []

    def __call__(self, size: int) -> None:
        if self._stopped.is_set():
            raise Stopped
        with self._lock:
            self._done += size
            if self._on_progress:
                self._on_progress(Progress(self._done, self._total, time.monotonic() - self._start_s))

    def opened(self, source: BinaryIO) -> BinaryIO:
        """The same source, to be closed when the others have to stop."""
        self._open.append(source)
        return source

    def stop(self) -> None:
        """Let every thread stop at its next piece, and not wait for a server."""
        self._stopped.set()
        for source in self._open:
            source.close()


def _results(done: set[Future[int]], futures: Iterable[Future[int]]) -> list[int]:
    for future in done:
        error = future.exception()
        if error is not None:
            raise error
    return [future.result() for future in futures]


def _by_digest(entries: list[FileEntry]) -> list[list[FileEntry]]:
    """Files of equal content together: they are gathered under the same name, one after the other."""
    groups: dict[str, list[FileEntry]] = {}
    for entry in entries:
        groups.setdefault(entry.sha256, []).append(entry)
    return list(groups.values())
