"""The directory mirror as a store: what it holds, refuses, and repairs; many writers at once."""

from __future__ import annotations

import hashlib
import io
import os
import stat
from pathlib import Path

import pytest
from adapter_folders import write_adapter
from crashes import fork, wait_for

from edgelora.errors import (
    AdapterNotFound,
    DigestMismatch,
    DiskFull,
    FileSetMismatch,
    PublishRaced,
    ReferenceFormError,
    StoreError,
    StoreNotFound,
    VersionExists,
)
from edgelora.manifest import parse_manifest
from edgelora.store import DirectoryStore, Publication, StoredFile, parse_reference
from edgelora.transfer import push


@pytest.fixture
def mirror(tmp_path: Path) -> Path:
    return tmp_path / "mirror"


def publish(mirror: Path, version: str, *, seed: int = 0, name: str = "alice/decimals") -> str:
    folder = write_adapter(mirror.parent / f"{version}-{seed}", name=name, version=version, seed=seed)
    return push(folder, name, to=str(mirror)).commit


def test_versions_are_found_by_number_digest_commit_and_as_the_latest(mirror: Path) -> None:
    publish(mirror, "1.10.0")
    first = publish(mirror, "1.9.0")
    publish(mirror, "2.0.0-rc.1")
    store = DirectoryStore(mirror)
    assert store.list_adapters() == ["alice/decimals"]
    assert store.versions("alice", "decimals") == ["1.9.0", "1.10.0", "2.0.0-rc.1"]
    digest = store.resolve(parse_reference("alice/decimals@1.9.0")).manifest.sha256
    for at, version in [
        ("", "1.10.0"),
        ("@main", "2.0.0-rc.1"),
        (f"@{first}", "1.9.0"),
        (f"@sha256:{digest}", "1.9.0"),
    ]:
        assert store.resolve(parse_reference(f"alice/decimals{at}")).reference.version == version


def test_blobs_are_read_only_named_by_their_digest_and_stored_once(mirror: Path) -> None:
    publish(mirror, "1.0.0")
    publish(mirror, "1.1.0")
    blobs = [path for path in (mirror / "blobs").rglob("*") if path.is_file()]
    assert len(blobs) == 3 + 2, "three files the versions share, and two manifests"
    for path in blobs:
        assert hashlib.sha256(path.read_bytes()).hexdigest() == path.name
        assert path.parent.name == path.name[:2]
        assert stat.S_IMODE(path.stat().st_mode) == 0o444


def test_the_release_sequence_grows_with_every_version(mirror: Path) -> None:
    for version in ("1.0.0", "0.9.0", "1.1.0"):
        publish(mirror, version)
    store = DirectoryStore(mirror)
    sequence = [
        parse_manifest(
            store.read_manifest(parse_reference(f"alice/decimals@{version}"))
        ).identity.release_sequence
        for version in ("1.0.0", "0.9.0", "1.1.0")
    ]
    assert sequence == [1, 2, 3]


def test_what_is_missing_is_told_with_what_is_there(mirror: Path) -> None:
    publish(mirror, "1.0.0")
    store = DirectoryStore(mirror)
    for reference, problem, fix in [
        ("alice/decimal", "holds no adapter alice/decimal", "did you mean alice/decimals?"),
        ("zz/qq", "holds no adapter zz/qq", "the store holds alice/decimals"),
        ("alice/decimals@3.0.0", "but not 3.0.0", "choose from 1.0.0"),
        ("alice/decimals@sha256:" + "0" * 64, "but not sha256:000", "choose from 1.0.0"),
    ]:
        with pytest.raises(AdapterNotFound) as caught:
            store.resolve(parse_reference(reference))
        assert problem in caught.value.problem and caught.value.fix == fix


def test_removing_takes_one_version_out_of_sight_and_moves_main_back(mirror: Path) -> None:
    first = publish(mirror, "1.0.0")
    publish(mirror, "1.1.0", seed=1)
    store = DirectoryStore(mirror)
    store.remove(parse_reference("alice/decimals@1.1.0"))
    assert store.versions("alice", "decimals") == ["1.0.0"]
    assert store.head("alice", "decimals") == first
    with pytest.raises(ReferenceFormError, match="does not say which version") as caught:
        store.remove(parse_reference("alice/decimals"))
    assert caught.value.fix == "write alice/decimals@1.0.0"
    store.remove(parse_reference("alice/decimals@1.0.0"))
    assert (store.list_adapters(), store.head("alice", "decimals"), store.fsck().problems) == ([], None, ())
    publish(mirror, "1.1.0", seed=1)
    assert store.fsck().is_clean


def test_a_version_is_published_once(mirror: Path) -> None:
    publish(mirror, "1.0.0")
    with pytest.raises(VersionExists, match="with other content, and a version never changes") as caught:
        publish(mirror, "1.0.0", seed=1)
    assert "alice/decimals@1.0.1" in caught.value.fix
    blob = StoredFile("edgelora.json", 1, hashlib.sha256(b"x").hexdigest())
    store = DirectoryStore(mirror)
    store.put_file(io.BytesIO(b"x"), blob)
    with pytest.raises(VersionExists, match="with other content"):
        store.publish(Publication(parse_reference("alice/decimals@1.0.0"), (blob,), None, 1))


def test_publishing_on_an_old_head_or_without_the_files_is_refused(mirror: Path) -> None:
    publish(mirror, "1.0.0")
    store = DirectoryStore(mirror)
    file = StoredFile("edgelora.json", 1, hashlib.sha256(b"x").hexdigest())
    reference = parse_reference("alice/decimals@2.0.0")
    with pytest.raises(PublishRaced, match="others publish to alice/decimals") as raced:
        store.publish(Publication(reference, (file,), None, 2))
    assert raced.value.fix == "run the push again"
    with pytest.raises(FileSetMismatch, match="is not in") as missing:
        store.publish(Publication(reference, (file,), store.head("alice", "decimals"), 2))
    assert "put every file" in missing.value.fix
    assert store.versions("alice", "decimals") == ["1.0.0"]


def test_bytes_that_are_not_what_was_said_are_not_stored(mirror: Path) -> None:
    store = DirectoryStore(mirror)
    for data in (b"abc", b"ab", b"abcd"):
        with pytest.raises(DigestMismatch, match="is not the file its manifest describes"):
            store.put_file(io.BytesIO(data), StoredFile("f", 3, hashlib.sha256(b"abd").hexdigest()))
    report = store.fsck()
    assert (report.blobs, report.unfinished) == (0, 0)


def test_a_full_disk_leaves_no_blob_no_version_and_no_litter(
    mirror: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(mirror, "1.0.0")
    write = os.write
    left = 600

    def limited(descriptor: int, data: bytes) -> int:
        nonlocal left
        left -= len(data)
        if left < 0:
            raise OSError(28, "No space left on device")
        return write(descriptor, data)

    monkeypatch.setattr(os, "write", limited)
    with pytest.raises(DiskFull, match="nothing unfinished was made visible"):
        publish(mirror, "1.1.0", seed=1)
    monkeypatch.undo()
    store = DirectoryStore(mirror)
    report = store.fsck()
    assert (report.problems, report.unfinished) == ((), 0)
    assert store.versions("alice", "decimals") == ["1.0.0"]


def test_litter_of_the_dead_is_cleared_and_files_of_the_living_are_not(mirror: Path) -> None:
    publish(mirror, "1.0.0")
    (mirror / "tmp" / "1-dead").write_bytes(b"x")
    store = DirectoryStore(mirror)
    seen = []

    class Slow(io.BytesIO):
        def read(self, count: int | None = -1) -> bytes:
            # Another writer starts, and cleans up, in the middle of this one's file.
            DirectoryStore(mirror).put_file(io.BytesIO(b"other"), _file(b"other"))
            seen.append(len(list((mirror / "tmp").iterdir())))
            return super().read(count)

    assert store.put_file(Slow(b"slow"), _file(b"slow"))
    assert seen and set(seen) == {1}, "its own file only"
    assert list((mirror / "tmp").iterdir()) == []
    assert store.fsck().blobs == 4 + 2


def test_publishing_again_repairs_a_damaged_or_lost_blob(mirror: Path) -> None:
    publish(mirror, "1.0.0")
    store = DirectoryStore(mirror)
    for file in store.resolve(parse_reference("alice/decimals")).files:
        path = mirror / "blobs/sha256" / file.sha256[:2] / file.sha256
        path.chmod(0o644)
        path.write_bytes(b"x" * file.size)
    assert len(store.fsck().problems) == 4 + 4
    folder = write_adapter(mirror.parent / "again", seed=0)
    assert push(folder, "alice/decimals", to=str(mirror)).reused
    assert store.fsck().is_clean


def test_a_directory_that_is_no_mirror_is_never_written_to(tmp_path: Path) -> None:
    folder = write_adapter(tmp_path / "adapter")
    with pytest.raises(StoreError, match="holds other things") as caught:
        push(folder, "alice/decimals", to=str(folder))
    assert "empty directory" in caught.value.fix
    with pytest.raises(StoreError, match="is not a mirror: it has no file VERSION"):
        DirectoryStore(folder).list_adapters()
    with pytest.raises(StoreNotFound, match="cannot be made") as unmounted:
        push(folder, "alice/decimals", to=str(tmp_path / "not/mounted"))
    assert "mount its disk" in unmounted.value.fix
    assert not (tmp_path / "not").exists()


def test_a_mirror_without_permission_is_refused_with_whom_to_ask(
    mirror: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(mirror, "1.0.0")
    access = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: not mode & os.W_OK and access(path, mode))
    with pytest.raises(StoreError, match="may not be written by this user") as caught:
        publish(mirror, "1.1.0")
    assert "--to" in caught.value.fix
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(StoreError, match="may not be read by this user"):
        DirectoryStore(mirror).list_adapters()


def test_a_mirror_of_a_later_layout_is_refused(mirror: Path) -> None:
    publish(mirror, "1.0.0")
    (mirror / "VERSION").write_text("edgelora mirror 2\n")
    with pytest.raises(StoreError, match="has the layout b'edgelora mirror 2") as caught:
        DirectoryStore(mirror).list_adapters()
    assert "update edgelora" in caught.value.fix


def test_writers_of_different_versions_all_succeed_one_after_the_other(mirror: Path) -> None:
    folders = [write_adapter(mirror.parent / str(n), version=f"1.{n}.0", seed=n) for n in range(6)]
    pids = [fork(lambda folder=folder: push(folder, "alice/decimals", to=str(mirror))) for folder in folders]
    assert [wait_for(pid) for pid in pids] == [0] * 6
    store = DirectoryStore(mirror)
    snapshots = [store.read_manifest(parse_reference(f"alice/decimals@1.{n}.0")) for n in range(6)]
    assert sorted(parse_manifest(data).identity.release_sequence for data in snapshots) == [1, 2, 3, 4, 5, 6]
    assert store.fsck().is_clean


def test_writers_of_the_same_content_under_another_name_all_succeed(mirror: Path) -> None:
    folder = write_adapter(mirror.parent / "adapter")
    pids = [fork(lambda: push(folder, "factory/line@3.0.0", to=str(mirror))) for _ in range(5)]
    assert [wait_for(pid) for pid in pids] == [0] * 5
    assert DirectoryStore(mirror).fsck().is_clean


def test_a_push_that_always_comes_second_gives_up_in_the_end(
    mirror: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(mirror, "1.0.0")
    monkeypatch.setattr(DirectoryStore, "head", lambda store, namespace, name: None)
    with pytest.raises(PublishRaced, match="others publish to alice/decimals"):
        publish(mirror, "1.1.0")


def test_of_writers_of_one_version_with_different_content_one_wins(mirror: Path) -> None:
    folders = [write_adapter(mirror.parent / str(n), seed=n) for n in range(4)]

    def compete(folder: Path) -> None:
        try:
            push(folder, "alice/decimals", to=str(mirror))
        except VersionExists:
            os._exit(3)

    statuses = [wait_for(pid) for pid in [fork(lambda f=folder: compete(f)) for folder in folders]]
    assert sorted(statuses) == [0, 3, 3, 3]
    assert DirectoryStore(mirror).fsck().is_clean


def _file(data: bytes) -> StoredFile:
    return StoredFile("f", len(data), hashlib.sha256(data).hexdigest())
