"""Publishing one version of a bundle in a store, beside what the store holds already."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from edgelora.bundles.index import BundledAdapter
from edgelora.bundles.reading import Bundle
from edgelora.errors import PublishRaced, Rollback
from edgelora.manifest import MANIFEST_NAME, SIGNATURE_NAME, Manifest
from edgelora.store import DirectoryStore, Publication, Snapshot, Store, StoredFile
from edgelora.store.refusals import refuse_case_clash, version_exists
from edgelora.transfer.cosigning import all_signatures

_ATTEMPTS = 20


@dataclass(frozen=True, slots=True)
class Arrived:
    """A version that is in the store now."""

    snapshot: Snapshot
    is_new: bool
    """It was not there before, under whatever signatures."""


@dataclass(frozen=True, slots=True)
class VersionImport:
    """One version, on its way from a bundle into a store."""

    bundle: Bundle
    adapter: BundledAdapter
    manifest: Manifest
    store: Store

    @property
    def files(self) -> tuple[StoredFile, ...]:
        """All of them, the manifest last."""
        own = StoredFile(MANIFEST_NAME, self.adapter.manifest.size, self.adapter.manifest.sha256)
        return (*self.bundle.files(self.adapter, self.manifest), own)

    @property
    def sequence(self) -> int:
        """Its number among the releases of the adapter."""
        return self.manifest.identity.release_sequence

    def refuse_conflict(self) -> None:
        """Refuse what the store could not publish, before anything of the bundle is published.

        Raises:
            VersionExists: The store holds the version with other content, did when it was removed, or holds
                one that differs from it in capitals alone.
            Rollback: The store holds a later release, and not this one.
        """
        namespace, name = self.adapter.namespace, self.adapter.name
        published = self.store.versions(namespace, name)
        removed = {
            str(found.reference.version): found.manifest.sha256
            for found in self.store.removed(namespace, name)
        }
        holds = removed.get(self.adapter.version)
        if self.adapter.version in published:
            holds = self._resolved().manifest.sha256
        if holds not in (None, self.adapter.manifest.sha256):
            raise version_exists(self.adapter.reference, self.store.address, published, removed=list(removed))
        if holds is None:
            refuse_case_clash(self.adapter.reference, self.store.address, [*published, *removed])
            if self.store.release_sequence(namespace, name) >= self.sequence:
                raise self._later_is_there()

    def put(self) -> int:
        """Put every file, invisible until it is published; how many bytes were not there before."""
        copied = 0
        for file in self.files:
            with self.bundle.open(file) as source:
                copied += file.size if self.store.put_file(source, file) else 0
        return copied

    def publish(self) -> Arrived:
        """Let the version be seen; the signatures that it has in the store already stay.

        Raises:
            VersionExists, Rollback: As `refuse_conflict`: others published meanwhile.
        """
        for attempt in range(1, _ATTEMPTS + 1):
            if not isinstance(self.store, DirectoryStore):
                # A remote store forgets what was put with every publication.
                self.put()
            published = self._published()
            head = (
                published.commit if published else self.store.head(self.adapter.namespace, self.adapter.name)
            )
            message = f"bundle {self.adapter.reference}"
            files = self._with_signatures(published)
            try:
                made = self.store.publish(
                    Publication(self.adapter.reference, files, head, self.sequence, message)
                )
                return Arrived(made, is_new=published is None)
            except PublishRaced:
                self.refuse_conflict()
                if attempt == _ATTEMPTS:
                    raise
        raise AssertionError("the last attempt returns or raises")

    def _published(self) -> Snapshot | None:
        if self.adapter.version not in self.store.versions(self.adapter.namespace, self.adapter.name):
            return None
        published = self._resolved()
        if published.manifest.sha256 != self.adapter.manifest.sha256:
            self.refuse_conflict()
        return published

    def _resolved(self) -> Snapshot:
        return self.store.resolve(self.adapter.reference)

    def _with_signatures(self, published: Snapshot | None) -> tuple[StoredFile, ...]:
        own = next((file for file in self.adapter.unlisted if file.path == SIGNATURE_NAME), None)
        data = all_signatures(self.bundle.read(own) if own else None, published, self.store)
        files = tuple(file for file in self.files if file.path != SIGNATURE_NAME)
        if data is None:
            return files
        signature = StoredFile(SIGNATURE_NAME, len(data), hashlib.sha256(data).hexdigest())
        self.store.put_file(io.BytesIO(data), signature)
        return (*files, signature)

    def _later_is_there(self) -> Rollback:
        return Rollback(
            f"{self.store.address} holds a later release of {self.adapter.reference.adapter} than "
            f"{self.adapter.version}, and publishes its releases in their order only",
            fix="import a bundle of the newest release, or this one into another store with --to",
        )


def refuse_conflicts(versions: Sequence[VersionImport]) -> None:
    """Refuse versions, in the order of their numbers, that a store could not publish one after the other.

    Raises:
        VersionExists: See `VersionImport.refuse_conflict`; or two differ in capitals alone.
        Rollback: See there; or two have one number.
    """
    for version in versions:
        version.refuse_conflict()
    for first, second in pairwise(versions):
        name = first.adapter.reference.adapter
        if name == second.adapter.reference.adapter and first.sequence == second.sequence:
            raise Rollback(
                f"{first.adapter.version} and {second.adapter.version} of {name} are both release "
                f"{first.sequence} in the bundle, so neither is later than the other",
                fix="publish them in one store, one after the other, and make the bundle from there",
            )
    for place, version in enumerate(versions):
        same = [
            each
            for each in versions[:place]
            if each.adapter.reference.adapter == version.adapter.reference.adapter
        ]
        refuse_case_clash(version.adapter.reference, "the bundle", [each.adapter.version for each in same])
