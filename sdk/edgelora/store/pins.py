"""What remote versions consist of, as they were when they were pulled: enough to pull them again offline."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from edgelora.confined import read_regular
from edgelora.errors import EdgeloraError
from edgelora.files import atomic_write
from edgelora.locations import cache_dir
from edgelora.manifest import MANIFEST_NAME
from edgelora.store.protocol import Snapshot, StoredFile
from edgelora.store.reference import Reference

_MAX_PIN_BYTES = 16 * 2**20


@dataclass(frozen=True, slots=True)
class Pin:
    """One version of one endpoint."""

    endpoint: str
    adapter: str
    version: str
    commit: str
    files: tuple[StoredFile, ...]
    """The manifest among them."""
    yanked: str | None

    @property
    def manifest(self) -> StoredFile:
        """The entry of ``edgelora.json``."""
        return next(file for file in self.files if file.path == MANIFEST_NAME)

    def snapshot(self, store: str) -> Snapshot:
        """As the store would answer."""
        namespace, _, name = self.adapter.partition("/")
        reference = Reference(store, namespace, name, self.version)
        return Snapshot(reference, self.commit, self.manifest, self.files, yanked=self.yanked)


def write_pin(endpoint: str, snapshot: Snapshot) -> None:
    """Remember a version that was pulled and verified. A cache that cannot be written is no failure."""
    pin = Pin(
        endpoint=endpoint,
        adapter=snapshot.reference.adapter,
        version=str(snapshot.reference.version),
        commit=snapshot.commit,
        files=snapshot.files,
        yanked=snapshot.yanked,
    )
    _write(pin)


def note_yanks(endpoint: str, adapter: str, yanked: Mapping[str, str]) -> None:
    """Remember which of an adapter's versions are withdrawn now: offline it is all that is known of it."""
    for pin in read_pins():
        told = yanked.get(pin.version)
        if (pin.endpoint, pin.adapter) == (endpoint, adapter) and pin.yanked != told:
            _write(replace(pin, yanked=told))


def read_pins() -> list[Pin]:
    """All that are remembered; a record that cannot be read is passed over."""
    found = (_read(path) for path in sorted(_folder().glob("*.json")))
    return sorted((pin for pin in found if pin), key=lambda pin: (pin.adapter, pin.version, pin.endpoint))


def find_pin(endpoint: str, reference: Reference) -> Pin | None:
    """The version a reference names by number or digest."""
    for pin in read_pins():
        named = (pin.version, f"sha256:{pin.manifest.sha256}", pin.commit)
        if (pin.endpoint, pin.adapter) == (endpoint, reference.adapter) and (
            (reference.version or reference.digest) in named
        ):
            return pin
    return None


def forget_pins(lost: set[str]) -> None:
    """Forget the versions that need one of these digests."""
    for pin in read_pins():
        if any(file.sha256 in lost for file in pin.files):
            _path(pin).unlink(missing_ok=True)


def _folder() -> Path:
    return cache_dir() / "pins"


def _path(pin: Pin) -> Path:
    key = f"{pin.endpoint}\n{pin.adapter}\n{pin.version}".encode()
    return _folder() / f"{hashlib.sha256(key).hexdigest()}.json"


def _write(pin: Pin) -> None:
    with suppress(OSError, EdgeloraError):
        atomic_write(_path(pin), (json.dumps(asdict(pin), sort_keys=True, indent=1) + "\n").encode())


def _read(path: Path) -> Pin | None:
    try:
        document = json.loads(read_regular(path.parent, path.name, limit=_MAX_PIN_BYTES))
        document["files"] = tuple(StoredFile(**file) for file in document["files"])
        pin = Pin(**document)
        is_whole = bool(pin.manifest) and _path(pin) == path
    except (EdgeloraError, OSError, ValueError, KeyError, TypeError, StopIteration):
        return None
    return pin if is_whole else None
