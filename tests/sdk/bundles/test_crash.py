"""An import or a creation that dies at any step on the disk leaves nothing torn, and the next one goes on."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from crashes import die_at_every_step
from hostile_bundles import sound

from edgelora.bases import bases_folder
from edgelora.bundles import check_bundle, create_bundle, import_bundle
from edgelora.manifest.base_identity import identify_base
from edgelora.store import DirectoryStore


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    path = tmp_path / "in.edgelora"
    path.write_bytes(sound().encode())
    return path


def test_an_import_that_dies_publishes_all_or_nothing_and_the_next_one_goes_on(
    tmp_path: Path, bundle: Path
) -> None:
    mirror = tmp_path / "mirror"

    def restore() -> None:
        shutil.rmtree(mirror, ignore_errors=True)
        shutil.rmtree(bases_folder(), ignore_errors=True)

    steps, visible = 0, []
    for _step in die_at_every_step(lambda: import_bundle(bundle, str(mirror)), restore):
        steps += 1
        if (mirror / "VERSION").exists():
            store = DirectoryStore(mirror)
            assert store.fsck().problems == ()
            visible.append(store.versions("alice", "decimals") == ["1.0.0"])
        for place in bases_folder().glob("[0-9a-f]*"):
            assert identify_base(place, rehash=True).tensors_digest == f"sha256:{place.name}"
        done = import_bundle(bundle, str(mirror))
        assert done.adapters == ("alice/decimals@1.0.0",)
        assert DirectoryStore(mirror).fsck().problems == ()
        assert [place.name for place in bases_folder().iterdir()] == [done.bases[0].removeprefix("sha256:")]
    assert steps > 40
    assert visible == sorted(visible) and True in visible and False in visible


def test_a_creation_that_dies_leaves_no_bundle_or_a_whole_one(tmp_path: Path, bundle: Path) -> None:
    import_bundle(bundle, str(tmp_path / "mirror"))
    folder = tmp_path / "outgoing"

    def restore() -> None:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()

    def work() -> None:
        create_bundle(folder / "out.edgelora", ["alice/decimals"], source=str(tmp_path / "mirror"))

    steps = 0
    for _step in die_at_every_step(work, restore):
        steps += 1
        if (folder / "out.edgelora").exists():
            check_bundle(folder / "out.edgelora")
    assert steps >= 2


def test_a_creation_that_was_killed_leaves_nothing_once_it_is_repeated(tmp_path: Path, bundle: Path) -> None:
    import_bundle(bundle, str(tmp_path / "mirror"))
    folder = tmp_path / "outgoing"

    def restore() -> None:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()

    def work() -> None:
        create_bundle(folder / "out.edgelora", ["alice/decimals"], source=str(tmp_path / "mirror"))

    for _step in die_at_every_step(work, restore):
        # Whatever was cleaned up by the dying process: a killed one cleans up nothing.
        (folder / f".out.edgelora.{'0' * 16}.tmp").write_bytes(b"half")
        if not (folder / "out.edgelora").exists():
            work()
            assert os.listdir(folder) == ["out.edgelora"]
