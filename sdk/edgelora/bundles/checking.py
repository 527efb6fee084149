"""Checking a bundle from end to end without importing it."""

from __future__ import annotations

import hashlib
from pathlib import Path

from edgelora.bundles.archive import blob_name
from edgelora.bundles.index import Index
from edgelora.bundles.reading import all_blobs_are_named, open_bundle
from edgelora.errors import DigestMismatch

_PIECE_BYTES = 2**20


def check_bundle(path: Path) -> Index:
    """The index of a sound bundle: its container, every manifest and every blob are as they should be.

    Who signed it, and whether a base has the weights it is named for, is not asked here.

    Raises:
        EdgeloraError: The first thing that an import would refuse.
    """
    with open_bundle(path) as bundle:
        manifests = [bundle.manifest(adapter) for adapter in bundle.index.adapters]
        all_blobs_are_named(bundle, manifests)
        for blob in bundle.index.blobs:
            digest = hashlib.sha256()
            with bundle.open(blob) as source:
                while piece := source.read(_PIECE_BYTES):
                    digest.update(piece)
            if digest.hexdigest() != blob.sha256:
                raise DigestMismatch(
                    f"{blob_name(blob.sha256)} of the bundle holds other bytes",
                    fix="get the bundle again, or ask whoever made it for another copy",
                )
        return bundle.index
