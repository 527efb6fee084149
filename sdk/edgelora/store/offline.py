"""A remote store while the network is forbidden: what was pulled from it before, and nothing else."""

from __future__ import annotations

from typing import BinaryIO, NoReturn, cast

from edgelora.errors import OfflineNotCached
from edgelora.store.blob_cache import BlobCache
from edgelora.store.pins import find_pin, read_pins
from edgelora.store.protocol import Publication, Snapshot, StoredFile
from edgelora.store.reference import Reference


class OfflineStore:
    """Answers from the cache; whatever would need the network is refused. No socket is opened.

    Args:
        address: Of the store, as references name it.
        endpoint: Where it would be.
    """

    def __init__(self, address: str, endpoint: str) -> None:
        self._address = address
        self._endpoint = endpoint
        self._cache = BlobCache()

    @property
    def address(self) -> str:
        """How messages and references name this store."""
        return self._address

    def resolve(self, reference: Reference) -> Snapshot:
        """Pin a version that was pulled before; it must be named by its number or digest.

        Raises:
            OfflineNotCached: It was not, or none is named: which one is the latest is not known here.
        """
        pin = find_pin(self._endpoint, reference)
        if pin is None:
            self._refuse(reference.adapter)
        return pin.snapshot(reference.store or self._address)

    def read_manifest(self, reference: Reference) -> bytes:
        """The exact bytes of ``edgelora.json``, hashed again."""
        snapshot = self.resolve(reference)
        with self.open_file(snapshot, snapshot.manifest.path) as file:
            return file.read()

    def open_file(self, snapshot: Snapshot, path: str, *, offset: int = 0) -> BinaryIO:
        """The bytes of one file from ``offset`` on.

        Raises:
            OfflineNotCached: They are not in the cache.
        """
        blob = self._cache.open(next(file for file in snapshot.files if file.path == path))
        if blob is None:
            self._refuse(snapshot.reference.adapter, lacks=path)
        blob.seek(offset)
        return cast("BinaryIO", blob)

    def list_adapters(self) -> list[str]:
        """Not known without the network."""
        self._refuse()

    def versions(self, namespace: str, name: str) -> list[str]:
        """Not known without the network."""
        self._refuse(f"{namespace}/{name}")

    def head(self, namespace: str, name: str) -> str | None:
        """Not known without the network."""
        self._refuse(f"{namespace}/{name}")

    def release_sequence(self, namespace: str, name: str) -> int:
        """Not known without the network."""
        self._refuse(f"{namespace}/{name}")

    def removed(self, namespace: str, name: str) -> list[Snapshot]:
        """Not known without the network."""
        self._refuse(f"{namespace}/{name}")

    def yanked(self, namespace: str, name: str) -> dict[str, str]:
        """Those known to be withdrawn when they were pulled."""
        return {
            pin.version: pin.yanked
            for pin in read_pins()
            if (pin.endpoint, pin.adapter) == (self._endpoint, f"{namespace}/{name}") and pin.yanked
        }

    def put_file(self, source: BinaryIO, file: StoredFile) -> bool:
        """Not possible without the network."""
        self._refuse()

    def publish(self, publication: Publication) -> Snapshot:
        """Not possible without the network."""
        self._refuse(publication.reference.adapter)

    def remove(self, reference: Reference) -> Snapshot:
        """Not possible without the network."""
        self._refuse(reference.adapter)

    def yank(self, reference: Reference, reason: str) -> Snapshot:
        """Not possible without the network."""
        self._refuse(reference.adapter)

    def unyank(self, reference: Reference) -> Snapshot:
        """Not possible without the network."""
        self._refuse(reference.adapter)

    def _refuse(self, adapter: str | None = None, *, lacks: str | None = None) -> NoReturn:
        cached = [
            f"{pin.adapter}@{pin.version}"
            for pin in read_pins()
            if pin.endpoint == self._endpoint and adapter in (None, pin.adapter)
        ]
        known = cached and not lacks
        missing = f"; {lacks} of {adapter} is not in the cache" if lacks else ""
        raise OfflineNotCached(
            f"{self._address} is on a network, and edgelora is told to stay offline{missing}",
            fix=(f"name a version that is in the cache ({', '.join(cached[:8])}), " if known else "")
            + (f"write {adapter} without a store if it was pulled before, " if adapter else "")
            + "or leave --offline out and unset HF_HUB_OFFLINE and EDGELORA_OFFLINE",
        )
