"""A bundle that breaks one rule is refused for it, and nothing of it is published."""

from __future__ import annotations

import os
from io import BytesIO
from pathlib import Path

import pytest
from hostile_bundles import Member, archive, broken, sound

from edgelora.bases import bases_folder
from edgelora.bundles import import_bundle, open_bundle, read_bundle
from edgelora.errors import BundleError, EdgeloraError, MissingFile
from edgelora.store import DirectoryStore

BROKEN = list(broken())


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


def written(folder: Path, data: bytes) -> Path:
    path = folder / "in.edgelora"
    path.write_bytes(data)
    return path


def test_there_are_enough_of_them() -> None:
    assert len(BROKEN) > 100
    assert len({name for name, *_ in BROKEN}) == len(BROKEN)


def test_the_sound_one_is_imported(tmp_path: Path) -> None:
    done = import_bundle(written(tmp_path, sound().encode()), str(tmp_path / "mirror"))
    assert done.adapters == ("alice/decimals@1.0.0",) and len(done.bases) == 1


@pytest.mark.parametrize(("name", "rule", "data", "error"), BROKEN, ids=[name for name, *_ in BROKEN])
def test_a_broken_one_is_refused(tmp_path: Path, name: str, rule: str, data: bytes, error: str) -> None:
    path = written(tmp_path, data)
    with pytest.raises(EdgeloraError) as caught:
        import_bundle(path, str(tmp_path / "mirror"))
    assert caught.value.id == error, f"{rule}: {caught.value}"
    store = DirectoryStore(tmp_path / "mirror")
    assert store.versions("alice", "decimals") == []
    assert [
        each for each in (bases_folder().iterdir() if bases_folder().exists() else ()) if "." not in each.name
    ] == [] or error == "digest-mismatch"
    assert sorted(os.listdir(tmp_path)) in (["in.edgelora"], ["in.edgelora", "mirror"])


@pytest.mark.parametrize("stride", [31, pytest.param(1, marks=pytest.mark.acceptance, id="all")])
def test_every_flipped_byte_of_the_archive_itself_is_noticed(stride: int) -> None:
    """Headers, padding and the end; blobs are covered by their digests, the index by its signature."""
    whole = sound().encode()
    covered = []
    position = 0
    for member in sound().members():
        covered += range(position, position + 512)
        position += 512 + len(member.data)
        end = position + -len(member.data) % 512
        covered += range(position, end)
        position = end
    covered += range(position, len(whole))
    for place in covered[::stride]:
        data = bytearray(whole)
        data[place] ^= 1 << (place % 8)
        with pytest.raises(BundleError):
            read_bundle(BytesIO(data), len(data))
    assert len(covered) > 4000


def test_a_device_or_a_folder_is_no_bundle(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for place in (tmp_path, tmp_path / "fifo", Path("/dev/zero")):
        with pytest.raises(EdgeloraError), open_bundle(place):
            pass
    with pytest.raises(MissingFile, match="there is no bundle"), open_bundle(tmp_path / "gone"):
        pass


def test_members_of_an_index_that_are_not_known_are_ignored(tmp_path: Path) -> None:
    data = sound().with_index(lambda index: index.update(bundleVersion="1.7", note="from the future"))
    assert import_bundle(written(tmp_path, data), str(tmp_path / "mirror")).adapters == (
        "alice/decimals@1.0.0",
    )


def test_the_handwritten_bundle_is_the_one_that_would_be_written(tmp_path: Path) -> None:
    members = sound().members()
    assert archive([Member(member.name, member.data) for member in members]) == sound().encode()
    with open_bundle(written(tmp_path, sound().encode())) as bundle:
        assert bundle.index.encode() == bundle.index_bytes
