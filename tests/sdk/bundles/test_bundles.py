"""A bundle carries releases and bases byte for byte, and the same content gives the same bundle."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import tarfile
from io import BytesIO
from pathlib import Path

import pytest
from adapter_folders import write_adapter

from edgelora import micro
from edgelora.bases import base_place, find_base
from edgelora.bundles import Created, check_bundle, create_bundle, import_bundle, open_bundle
from edgelora.errors import (
    BundleError,
    DigestMismatch,
    DiskFull,
    MissingFile,
    ReferenceFormError,
    Rollback,
    TargetExists,
    VersionExists,
)
from edgelora.manifest.base_identity import identify_base
from edgelora.store import DirectoryStore, parse_reference
from edgelora.transfer import pull, push, yank
from edgelora.verify import verify


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.fixture
def mirror(tmp_path: Path) -> str:
    for name, version in (("alice/decimals", "1.0.0"), ("alice/decimals", "1.1.0"), ("bob/sensors", "2.0.0")):
        seed = int(version[2])
        folder = write_adapter(tmp_path / f"{name[:3]}-{version}", name=name, version=version, seed=seed)
        push(folder, name, to=str(tmp_path / "mirror"))
    return str(tmp_path / "mirror")


def bundle(mirror: str, *adapters: str, name: str = "out.edgelora", **options: object) -> Created:
    return create_bundle(Path(mirror).parent / name, adapters, source=mirror, **options)  # type: ignore[arg-type]


def manifest_digest(store: str, reference: str) -> str:
    return DirectoryStore(Path(store)).resolve(parse_reference(reference)).manifest.sha256


def test_what_is_imported_is_what_was_published(mirror: str, tmp_path: Path) -> None:
    made = bundle(mirror, "alice/decimals@1.0.0", "alice/decimals", "bob/sensors")
    other = str(tmp_path / "other")
    done = import_bundle(made.path, other)
    assert done.adapters == ("alice/decimals@1.0.0", "alice/decimals@1.1.0", "bob/sensors@2.0.0")
    assert (done.reused, done.bases) == ((), ())
    for reference in done.adapters:
        assert manifest_digest(other, reference) == manifest_digest(mirror, reference)
    assert verify(pull("alice/decimals", other).folder) == []
    assert DirectoryStore(Path(other)).fsck().is_clean


def test_importing_again_changes_nothing_and_copies_nothing(mirror: str, tmp_path: Path) -> None:
    made = bundle(mirror, "alice/decimals", "bob/sensors")
    import_bundle(made.path, str(tmp_path / "other"))
    again = import_bundle(made.path, str(tmp_path / "other"))
    assert (again.reused, again.copied_bytes) == (again.adapters, 0)


def test_the_same_content_gives_the_same_bytes(mirror: str, tmp_path: Path) -> None:
    first = bundle(mirror, "alice/decimals", "bob/sensors", name="a", bases=["micro"])
    shutil.copytree(mirror, tmp_path / "copy")
    second = create_bundle(
        tmp_path / "b",
        ["bob/sensors@2.0.0", "alice/decimals"],
        bases=["micro"],
        source=str(tmp_path / "copy"),
    )
    assert first.path.read_bytes() == second.path.read_bytes()
    assert first.sha256 == second.sha256 == hashlib.sha256(first.path.read_bytes()).hexdigest()


def test_files_that_are_alike_are_carried_once(mirror: str) -> None:
    index = bundle(mirror, "alice/decimals@1.0.0", "alice/decimals@1.1.0").index
    assert len(index.blobs) == len({blob.sha256 for blob in index.blobs}) == 2 * 4 - 1, "the card is the same"


def test_stock_tar_programs_read_a_bundle(mirror: str, tmp_path: Path) -> None:
    made = bundle(mirror, "alice/decimals", bases=["micro"])
    with tarfile.open(made.path, "r:") as archive:
        members = archive.getmembers()
        assert [member.name for member in members[:1]] == ["index.json"]
        assert all(
            member.isreg() and (member.mode, member.uid, member.mtime) == (0o644, 0, 0) for member in members
        )
        assert [member.name for member in members[1:]] == [
            f"blobs/sha256/{blob.sha256}" for blob in made.index.blobs
        ]
        archive.extractall(tmp_path / "python", filter="data")
    for program in (["tar"], ["bsdtar"], ["busybox", "tar"]):
        if shutil.which(program[0]) is None:
            continue
        folder = tmp_path / program[0]
        folder.mkdir()
        done = subprocess.run([*program, "-xf", made.path], cwd=folder, capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, "")
        for blob in made.index.blobs:
            data = (folder / "blobs/sha256" / blob.sha256).read_bytes()
            assert hashlib.sha256(data).hexdigest() == blob.sha256


def test_a_folder_and_a_pulled_adapter_can_be_bundled(mirror: str, tmp_path: Path) -> None:
    folder = pull("alice/decimals", mirror).folder
    shutil.rmtree(mirror)
    made = create_bundle(tmp_path / "folder", [str(folder)])
    assert made.index == create_bundle(tmp_path / "pulled", ["alice/decimals"]).index
    import_bundle(made.path, str(tmp_path / "other"))


def test_an_adapter_without_a_name_of_its_own_is_pushed_first(tmp_path: Path) -> None:
    folder = write_adapter(tmp_path / "adapter", name="local/first")
    with pytest.raises(ReferenceFormError, match="has no name of its own yet") as caught:
        create_bundle(tmp_path / "out", [str(folder)])
    assert "push it first" in caught.value.fix


def test_nothing_and_two_of_one_name_are_refused(mirror: str, tmp_path: Path) -> None:
    with pytest.raises(ReferenceFormError, match="a bundle of nothing"):
        create_bundle(tmp_path / "out", [])
    other = write_adapter(tmp_path / "other", version="1.1.0", seed=9)
    with pytest.raises(ReferenceFormError, match=r"two adapters of the name alice/decimals@1\.1\.0"):
        bundle(mirror, "alice/decimals@1.1.0", str(other))


def test_nothing_is_overwritten(mirror: str) -> None:
    made = bundle(mirror, "alice/decimals")
    with pytest.raises(TargetExists, match="exists already"):
        bundle(mirror, "bob/sensors")
    with pytest.raises(MissingFile, match="there is no folder"):
        bundle(mirror, "bob/sensors", name="gone/out.edgelora")
    assert os.listdir(made.path.parent).count("out.edgelora") == 1


def test_a_file_that_is_damaged_in_the_store_is_not_bundled(mirror: str) -> None:
    files = DirectoryStore(Path(mirror)).resolve(parse_reference("alice/decimals")).files
    sha256 = next(file.sha256 for file in files if file.path == "adapter_model.safetensors")
    path = Path(mirror, "blobs/sha256", sha256[:2], sha256)
    path.chmod(0o644)
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    with pytest.raises(DigestMismatch, match="holds other bytes now"):
        bundle(mirror, "alice/decimals")
    assert not [name for name in os.listdir(Path(mirror).parent) if "edgelora" in name]


def test_a_yanked_version_arrives_yanked(mirror: str, tmp_path: Path) -> None:
    yank("alice/decimals@1.1.0", "answers 9.11 again", mirror)
    made = bundle(mirror, "alice/decimals@1.0.0", "alice/decimals@1.1.0")
    import_bundle(made.path, str(tmp_path / "other"))
    other = DirectoryStore(tmp_path / "other")
    assert other.yanked("alice", "decimals") == {"1.1.0": "answers 9.11 again"}
    assert import_bundle(made.path, str(tmp_path / "other")).copied_bytes == 0


def test_a_base_is_found_by_its_digest(mirror: str, tmp_path: Path) -> None:
    made = bundle(mirror, "alice/decimals", bases=["micro"])
    shutil.rmtree(mirror)
    done = import_bundle(made.path, str(tmp_path / "other"))
    (digest,) = done.bases
    folder = find_base(digest)
    assert folder == base_place(digest) and folder is not None
    assert digest == identify_base(micro.path()).tensors_digest == identify_base(folder).tensors_digest
    assert (folder / "tokenizer.json").read_bytes() == (micro.path() / "tokenizer.json").read_bytes()
    assert sorted(os.listdir(folder.parent)) == [folder.name]
    weights = bytearray((folder / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (folder / "model.safetensors").write_bytes(weights)
    assert import_bundle(made.path, str(tmp_path / "other")).copied_bytes > 0, "damaged weights are repaired"
    assert identify_base(folder, rehash=True).tensors_digest == digest


def test_other_content_under_a_published_version_is_refused(mirror: str, tmp_path: Path) -> None:
    made = bundle(mirror, "alice/decimals")
    push(write_adapter(tmp_path / "x", version="1.1.0", seed=8), "alice/decimals", to=str(tmp_path / "other"))
    with pytest.raises(VersionExists):
        import_bundle(made.path, str(tmp_path / "other"))


def test_an_older_release_than_the_store_has_is_refused(mirror: str, tmp_path: Path) -> None:
    import_bundle(bundle(mirror, "alice/decimals", name="new").path, str(tmp_path / "other"))
    with pytest.raises(Rollback, match=r"holds a later release of alice/decimals than 1\.0\.0"):
        import_bundle(bundle(mirror, "alice/decimals@1.0.0", name="old").path, str(tmp_path / "other"))


def test_a_bundle_that_does_not_fit_is_refused_before_anything_is_written(
    mirror: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = bundle(mirror, "alice/decimals")
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    with pytest.raises(DiskFull, match="and 1000 are free"):
        import_bundle(made.path, str(tmp_path / "other"))
    assert not (tmp_path / "other").exists()


def test_a_bundle_is_read_without_its_blobs(mirror: str) -> None:
    made = bundle(mirror, "alice/decimals", "bob/sensors", bases=["micro"])
    with open_bundle(made.path) as opened:
        assert opened.index == made.index
        assert [str(adapter.reference) for adapter in opened.index.adapters] == [
            "alice/decimals@1.1.0",
            "bob/sensors@2.0.0",
        ]
        assert [base.repo for base in opened.index.bases] == ["micro"]


def test_a_bundle_is_checked_without_being_imported(mirror: str, tmp_path: Path) -> None:
    made = bundle(mirror, "alice/decimals", bases=["micro"])
    assert check_bundle(made.path) == made.index
    data = bytearray(made.path.read_bytes())
    with open_bundle(made.path) as opened:
        largest = max(made.index.blobs, key=lambda blob: blob.size)
        data[opened.offsets[largest.sha256]] ^= 1
    (tmp_path / "flipped").write_bytes(data)
    with pytest.raises(DigestMismatch, match="of the bundle holds other bytes"):
        check_bundle(tmp_path / "flipped")
    assert not (tmp_path / "other").exists() and not base_place("sha256:" + "0" * 64).parent.exists()


def test_a_shard_of_8_gib_is_refused_before_it_is_read(tmp_path: Path) -> None:
    base = tmp_path / "base"
    shutil.copytree(micro.path(), base)
    os.truncate(base / "model.safetensors", 2**33)
    with pytest.raises(
        BundleError, match="has 8589934592 bytes, and a file in a bundle has at most 8589934591"
    ) as e:
        create_bundle(tmp_path / "out", [], bases=[str(base)])
    assert "max_shard_size='5GB'" in e.value.fix
    assert not (tmp_path / "out").exists()


def test_a_file_of_an_adapter_of_8_gib_is_refused(tmp_path: Path) -> None:
    from edgelora.bundles import contents
    from edgelora.manifest import read_manifest

    folder = write_adapter(tmp_path / "adapter")
    manifest = read_manifest(folder)
    long = manifest.files[0].model_copy(update={"size": 2**33})
    with pytest.raises(BundleError, match="8 GiB less 1") as caught:
        contents._take(
            contents.Contents(),
            manifest.model_copy(update={"files": (long,)}),
            b"",
            [],
            lambda path: BytesIO(),
            yanked=None,
        )
    assert "edgelora push --to" in caught.value.fix


def test_what_a_killed_creation_left_is_deleted_by_the_next_one(mirror: str, tmp_path: Path) -> None:
    left = tmp_path / f".out.edgelora.{'0' * 16}.tmp"
    others = [tmp_path / name for name in (".other.edgelora.0123456789abcdef.tmp", ".out.edgelora.mine.tmp")]
    for path in (left, *others):
        path.write_bytes(b"half")
    alive = tmp_path / f".out.edgelora.{'1' * 16}.tmp"
    with open(alive, "xb") as file:
        fcntl.flock(file.fileno(), fcntl.LOCK_EX)
        bundle(mirror, "alice/decimals")
    assert not left.exists()
    assert alive.exists() and all(path.exists() for path in others), "another's, or one that is being written"
