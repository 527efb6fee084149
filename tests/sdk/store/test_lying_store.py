"""A store that answers another question than the one asked is refused, before a file is fetched."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import pytest
from adapter_folders import write_adapter

from edgelora.errors import DigestMismatch
from edgelora.locations import home
from edgelora.store import DirectoryStore, Publication, Reference, Snapshot, StoredFile, parse_reference
from edgelora.transfer import pull, push


class LyingStore:
    """Answers every question about one version with another, consistently."""

    address = "file:///lying"

    def __init__(self, mirror: Path, answer: str) -> None:
        self._store = DirectoryStore(mirror)
        self._answer = parse_reference(answer)

    def list_adapters(self) -> list[str]:
        return self._store.list_adapters()

    def versions(self, namespace: str, name: str) -> list[str]:
        return self._store.versions(namespace, name)

    def resolve(self, reference: Reference) -> Snapshot:
        return self._store.resolve(self._answer)

    def read_manifest(self, reference: Reference) -> bytes:
        return self._store.read_manifest(self._answer)

    def open_file(self, snapshot: Snapshot, path: str, *, offset: int = 0) -> BinaryIO:
        pytest.fail("a file was fetched")

    def head(self, namespace: str, name: str) -> str | None:
        return self._store.head(namespace, name)

    def release_sequence(self, namespace: str, name: str) -> int:
        return self._store.release_sequence(namespace, name)

    def removed(self, namespace: str, name: str) -> list[Snapshot]:
        return self._store.removed(namespace, name)

    def put_file(self, source: BinaryIO, file: StoredFile) -> bool:
        return self._store.put_file(source, file)

    def publish(self, publication: Publication) -> Snapshot:
        return self._store.publish(publication)

    def remove(self, reference: Reference) -> Snapshot:
        return self._store.remove(reference)

    def yanked(self, namespace: str, name: str) -> dict[str, str]:
        return self._store.yanked(namespace, name)

    def yank(self, reference: Reference, reason: str) -> Snapshot:
        return self._store.yank(reference, reason)

    def unyank(self, reference: Reference) -> Snapshot:
        return self._store.unyank(reference)


@pytest.fixture
def lie(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], LyingStore]:
    """Let every store be one that answers with the given version."""
    for version in ("1.0.0", "1.1.0"):
        push(write_adapter(tmp_path / version, version=version), "alice/decimals", str(tmp_path / "mirror"))
    push(tmp_path / "1.0.0", "bob/other@1.1.0", str(tmp_path / "mirror"))

    def tell(answer: str) -> LyingStore:
        store = LyingStore(tmp_path / "mirror", answer)
        monkeypatch.setattr("edgelora.transfer.pulling.open_store", lambda name: store)
        return store

    return tell


@pytest.mark.parametrize(
    ("asked", "answer"),
    [
        ("alice/decimals@1.1.0", "alice/decimals@1.0.0"),
        ("alice/decimals@1.1.0", "bob/other@1.1.0"),
        ("alice/decimals", "bob/other@1.1.0"),
        ("alice/decimals@main", "bob/other@1.1.0"),
        ("alice/decimals@sha256:" + "0" * 64, "bob/other@1.1.0"),
    ],
)
def test_another_adapter_or_version_than_asked_for_is_refused(
    lie: Callable[[str], LyingStore], asked: str, answer: str
) -> None:
    lie(answer)
    with pytest.raises(DigestMismatch, match=f"answers {asked} with the manifest of {answer}") as caught:
        pull(asked)
    assert caught.value.fix == "pull from another store: this one mixes adapters up"
    assert not (home() / "adapters").exists()


def test_another_digest_than_asked_for_is_refused(lie: Callable[[str], LyingStore]) -> None:
    store = lie("alice/decimals@1.0.0")
    answered = store.resolve(parse_reference("alice/decimals")).manifest.sha256
    with pytest.raises(DigestMismatch, match=f"with a manifest of the sha256 {answered}") as caught:
        pull("alice/decimals@sha256:" + "0" * 64)
    assert caught.value.fix == "pull from another store: this one mixes adapters up"
    assert not (home() / "adapters").exists()
