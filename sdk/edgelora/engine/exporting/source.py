"""What an export starts from: one adapter, verified, and what the user wants of it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from edgelora.confined import read_regular
from edgelora.engine.required_parts import check_runtime
from edgelora.errors import DigestMismatch
from edgelora.manifest import MANIFEST_NAME, MAX_MANIFEST_BYTES, Component, Manifest, parse_manifest
from edgelora.manifest.lora_shapes import PEFT_CONFIG_FILE, PLAIN_LORA_FILE
from edgelora.manifest.requirements import only_component
from edgelora.signing import check_trusted
from edgelora.transfer import locate_adapter
from edgelora.verify import read_verified


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which of the functions that an adapter holds.

    Attributes:
        task: Of an adapter that computes by task; None takes all of them.
        rank: Where one that works at several ranks is cut; None takes all of it.
        base: The folder, or name, of its base; None takes the one the adapter names.
        over: A base that ``export base`` wrote, to be named instead of the one the adapter names.
    """

    task: str | None = None
    rank: int | None = None
    base: str | None = None
    over: Path | None = None


@dataclass(frozen=True, slots=True)
class Source:
    """A verified adapter."""

    folder: Path
    manifest: Manifest
    manifest_sha256: str

    @property
    def name(self) -> str:
        """``ns/name@version``."""
        identity = self.manifest.identity
        return f"{identity.namespace}/{identity.name}@{identity.version}"

    @property
    def component(self) -> Component:
        """The only one."""
        return only_component(self.manifest)

    @property
    def is_in_peft_form(self) -> bool:
        """Whether its weights are stored as stock PEFT reads them."""
        files = self.component.files
        return PEFT_CONFIG_FILE in files and PLAIN_LORA_FILE in files

    def read(self, path: str) -> bytes:
        """A listed file, compared with its digest."""
        return read_verified(self.folder, self.manifest, path)


def open_source(reference: str) -> Source:
    """The adapter of a folder, of the shelf, or of a store.

    Raises:
        FeatureRequired: It composes several components or scales one, or needs another edgelora.
        EdgeloraError: What `edgelora.signing.check_trusted` finds.
    """
    folder = locate_adapter(reference)
    manifest = check_trusted(folder)
    only_component(manifest)
    check_runtime(manifest)
    data = read_regular(folder, MANIFEST_NAME, limit=MAX_MANIFEST_BYTES)
    if parse_manifest(data, str(folder / MANIFEST_NAME)) != manifest:
        raise DigestMismatch(
            f"{folder / MANIFEST_NAME} changed while it was read", fix="leave the folder alone, and try again"
        )
    return Source(folder, manifest, hashlib.sha256(data).hexdigest())
