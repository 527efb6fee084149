"""A pull is of one commit: what is published meanwhile is not mixed in."""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

import pytest
from adapter_folders import write_adapter
from loopback_hub import LoopbackHub

from edgelora.store import DirectoryStore, Snapshot
from edgelora.transfer import pull, push
from edgelora.verify import verify

FILES = ("README.md", "adapter_config.json", "adapter_model.safetensors")


def files_of(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in (*FILES, "edgelora.json")}


@pytest.fixture
def two(tmp_path: Path) -> tuple[Path, Path]:
    """Two releases that differ in every file."""
    first, second = (
        write_adapter(
            tmp_path / version,
            version=version,
            seed=seed,
            rows=16 + seed,
            extra={"README.md": version.encode()},
        )
        for seed, version in enumerate(("1.0.0", "1.1.0"))
    )
    return first, second


@pytest.mark.parametrize("reference", ["alice/decimals@main", "alice/decimals", "alice/decimals@1.0.0"])
@pytest.mark.parametrize("moment", range(3))
def test_main_of_a_mirror_that_moves_during_a_pull_changes_nothing_of_it(
    tmp_path: Path, two: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, reference: str, moment: int
) -> None:
    mirror = tmp_path / "mirror"
    push(two[0], "alice/decimals", to=str(mirror))
    expected = {**files_of(two[0])}
    opened: list[str] = []
    open_file = DirectoryStore.open_file

    def open_and_publish(self: DirectoryStore, snapshot: Snapshot, path: str, *, offset: int = 0) -> BinaryIO:
        opened.append(path)
        if len(opened) == moment + 1:
            push(two[1], "alice/decimals", to=str(mirror))
        return open_file(self, snapshot, path, offset=offset)

    with monkeypatch.context() as patch:
        patch.setattr(DirectoryStore, "open_file", open_and_publish)
        pulled = pull(reference, str(mirror))
    assert DirectoryStore(mirror).versions("alice", "decimals") == ["1.0.0", "1.1.0"], "it was published"
    assert pulled.reference == "alice/decimals@1.0.0" and verify(pulled.folder) == []
    assert files_of(pulled.folder) == expected


@pytest.mark.parametrize("file", FILES)
def test_main_of_a_hub_that_moves_during_a_pull_changes_nothing_of_it(
    hub: LoopbackHub, two: tuple[Path, Path], file: str
) -> None:
    first = push(two[0], "alice/decimals", to=hub.url)
    second = push(two[1], "alice/decimals", to=hub.url)
    repo = hub.repos["alice/decimals"]
    repo.branches["main"] = first.commit
    expected = files_of(two[0])
    moved: list[str] = []

    def move() -> bool:
        repo.branches["main"] = second.commit
        moved.append(file)
        return False

    hub.faults.only, hub.faults.drops = file, move
    pulled = pull("alice/decimals@main", hub.url)
    assert moved
    assert pulled.reference == "alice/decimals@1.0.0" and verify(pulled.folder) == []
    assert files_of(pulled.folder) == expected
    assert pull("alice/decimals@main", hub.url).reference == "alice/decimals@1.1.0"
