"""A mirror somebody has tampered with: refused, named, and nothing left behind."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import BinaryIO

import pytest
from adapter_folders import write_adapter

from edgelora.errors import DigestMismatch, EdgeloraError, FileSetMismatch, PathError, StoreError, UnsafeFile
from edgelora.locations import home
from edgelora.manifest import read_manifest
from edgelora.store import DirectoryStore, Snapshot, parse_reference
from edgelora.transfer import list_published, pull, push


@pytest.fixture
def mirror(tmp_path: Path) -> Path:
    push(write_adapter(tmp_path / "adapter", rows=512), "alice/decimals", to=str(tmp_path / "mirror"))
    return tmp_path / "mirror"


def blob_of(mirror: Path, path: str) -> Path:
    snapshot = DirectoryStore(mirror).resolve(parse_reference("alice/decimals"))
    sha256 = next(file.sha256 for file in snapshot.files if file.path == path)
    return mirror / "blobs/sha256" / sha256[:2] / sha256


def overwrite(path: Path, data: bytes) -> None:
    path.chmod(0o644)
    path.write_bytes(data)


def refused(mirror: Path, kind: type[EdgeloraError]) -> EdgeloraError:
    with pytest.raises(kind) as caught:
        pull("alice/decimals", str(mirror))
    left = [path for path in (home() / "adapters").rglob("*") if path.is_file()]
    assert left == [], "nothing is left behind"
    assert caught.value.fix
    return caught.value


@pytest.mark.parametrize("change", ["flipped", "longer", "shorter", "empty"])
def test_a_changed_blob_is_named_with_its_file(mirror: Path, change: str) -> None:
    blob = blob_of(mirror, "adapter_model.safetensors")
    data = blob.read_bytes()
    changed = {"flipped": data[:-1] + bytes([data[-1] ^ 1]), "longer": data + b"x", "shorter": data[:-9]}
    overwrite(blob, changed.get(change, b""))
    error = refused(mirror, DigestMismatch)
    assert "adapter_model.safetensors" in error.problem and blob.name in error.problem
    report = DirectoryStore(mirror).fsck()
    assert any(blob.name in problem.path for problem in report.problems)


def test_a_blob_without_an_end_is_not_read_for_ever(mirror: Path) -> None:
    blob = blob_of(mirror, "adapter_model.safetensors")
    blob.chmod(0o644)
    os.truncate(blob, 2**40)
    refused(mirror, DigestMismatch)


def test_a_manifest_without_an_end_is_not_read_for_ever(mirror: Path) -> None:
    blob = blob_of(mirror, "edgelora.json")
    blob.chmod(0o644)
    os.truncate(blob, 2**40)
    refused(mirror, DigestMismatch)


def test_a_lost_blob_is_named(mirror: Path) -> None:
    blob = blob_of(mirror, "README.md")
    blob.unlink()
    assert blob.name in refused(mirror, FileSetMismatch).problem


@pytest.mark.parametrize("kind", ["blob", "folder of blobs", "tag", "commit"])
def test_links_in_a_mirror_are_not_followed(mirror: Path, tmp_path: Path, kind: str) -> None:
    repository = mirror / "repos/models/alice--decimals"
    path = {
        "blob": blob_of(mirror, "README.md"),
        "folder of blobs": blob_of(mirror, "README.md").parent,
        "tag": repository / "refs/tags/1.0.0",
        "commit": next((repository / "commits").iterdir()),
    }[kind]
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    if kind == "tag":
        # A tag that is a link is no tag.
        assert DirectoryStore(mirror).list_adapters() == []
    else:
        refused(mirror, PathError)


def test_a_push_does_not_write_through_a_link(mirror: Path, tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    shard = blob_of(mirror, "README.md").parent
    for path in shard.iterdir():
        path.unlink()
    shard.rmdir()
    shard.symlink_to(tmp_path / "outside")
    with pytest.raises(StoreError, match="is a symlink that leads out of the mirror") as caught:
        push(tmp_path / "adapter", "alice/decimals@1.1.0", to=str(mirror))
    assert "replace it by a directory" in caught.value.fix
    assert list((tmp_path / "outside").iterdir()) == []


def test_a_pipe_instead_of_a_blob_does_not_block(mirror: Path) -> None:
    blob = blob_of(mirror, "README.md")
    blob.unlink()
    os.mkfifo(blob)
    refused(mirror, PathError)


@pytest.mark.parametrize(
    "data", [b"", b"x\n", b"0" * 40 + b"\n", b"0" * 40 + b" " + b"0" * 64 + b"\n", b"\xff" * 9]
)
def test_a_damaged_tag_is_named_and_other_adapters_stay_usable(
    mirror: Path, tmp_path: Path, data: bytes
) -> None:
    push(tmp_path / "adapter", "bob/other", to=str(mirror))
    (mirror / "repos/models/alice--decimals/refs/tags/1.0.0").write_bytes(data)
    refused(mirror, DigestMismatch)
    assert len(DirectoryStore(mirror).fsck().problems) >= 1
    listed = {listing.reference: listing.problem for listing in list_published(str(mirror))}
    assert listed["bob/other@1.0.0"] is None and listed["alice/decimals@1.0.0"]
    assert not pull("bob/other", str(mirror)).reused


def test_a_tag_moved_to_another_version_or_adapter_is_refused(mirror: Path, tmp_path: Path) -> None:
    push(tmp_path / "adapter", "bob/other", to=str(mirror))
    models = mirror / "repos/models"
    alice, bob = models / "alice--decimals", models / "bob--other"
    tag = (alice / "refs/tags/1.0.0").read_bytes()
    (alice / "refs/tags/1.0.1").write_bytes(tag)
    assert "is alice/decimals@1.0.0, not alice/decimals@1.0.1" in refused(mirror, DigestMismatch).problem
    (alice / "refs/tags/1.0.1").unlink()
    commit = next((bob / "commits").iterdir())
    (alice / "commits" / commit.name).write_bytes(commit.read_bytes())
    (alice / "refs/tags/1.0.0").write_bytes((bob / "refs/tags/1.0.0").read_bytes())
    assert "is bob/other@1.0.0, not alice/decimals@1.0.0" in refused(mirror, DigestMismatch).problem


def rewrite_commit(mirror: Path, change: dict[str, object]) -> None:
    """What a hostile mirror can do: a commit of its own, with matching digests."""
    repository = mirror / "repos/models/alice--decimals"
    commit = next((repository / "commits").iterdir())
    document = json.loads(commit.read_bytes()) | change
    data = json.dumps(document).encode()
    oid = hashlib.sha1(data).hexdigest()
    (repository / "commits" / f"{oid}.json").write_bytes(data)
    (repository / "refs/tags/1.0.0").write_text(f"{oid} {hashlib.sha256(data).hexdigest()}\n")


def files_of(mirror: Path) -> list[dict[str, object]]:
    snapshot = DirectoryStore(mirror).resolve(parse_reference("alice/decimals"))
    return [{"path": file.path, "size": file.size, "sha256": file.sha256} for file in snapshot.files]


def test_a_commit_with_another_file_than_the_manifest_names_is_refused(mirror: Path) -> None:
    files = files_of(mirror)
    readme = next(file for file in files if file["path"] == "README.md")
    weights = next(file for file in files if file["path"] == "adapter_model.safetensors")
    weights |= {"sha256": readme["sha256"]}
    rewrite_commit(mirror, {"files": files})
    assert "holds another adapter_model.safetensors" in refused(mirror, DigestMismatch).problem


def test_a_commit_with_more_or_fewer_files_than_the_manifest_is_refused(mirror: Path) -> None:
    files = files_of(mirror)
    rewrite_commit(mirror, {"files": [*files, {**files[0], "path": ".ssh/authorized_keys"}]})
    assert "disagree about .ssh/authorized_keys" in refused(mirror, FileSetMismatch).problem


@pytest.mark.parametrize(
    "change",
    [
        {"files": []},
        {"files": None},
        {"sequence": -1},
        {"sequence": True},
        {"parent": "x"},
        {"format": 2},
        {"version": "x"},
    ],
)
def test_a_commit_with_a_wrong_member_is_refused(mirror: Path, change: dict[str, object]) -> None:
    rewrite_commit(mirror, change)
    assert "is not a commit record" in refused(mirror, DigestMismatch).problem


@pytest.mark.parametrize(
    "path", ["../../escaped", "/etc/cron.d/x", "a\\b", "CON", "Readme.MD", "README.md/x"]
)
def test_a_commit_with_a_file_name_that_is_not_allowed_is_refused(mirror: Path, path: str) -> None:
    files = files_of(mirror)
    rewrite_commit(mirror, {"files": [*files, {**files[0], "path": path}]})
    assert (
        "clash" in refused(mirror, PathError).problem
        or "is not allowed" in refused(mirror, PathError).problem
    )


def test_the_manifest_of_another_adapter_is_refused(mirror: Path, tmp_path: Path) -> None:
    push(tmp_path / "adapter", "bob/other", to=str(mirror))
    other = DirectoryStore(mirror).resolve(parse_reference("bob/other"))
    files = [{"path": file.path, "size": file.size, "sha256": file.sha256} for file in other.files]
    rewrite_commit(mirror, {"files": files})
    assert "with the manifest of bob/other@1.0.0" in refused(mirror, DigestMismatch).problem


def test_a_pickle_is_refused_by_its_name_before_a_byte_of_it_is_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgelora.transfer.pushing.check", read_manifest)
    folder = write_adapter(tmp_path / "bad", extra={"adapter_model.bin": b"\x80\x02."})
    push(folder, "alice/decimals", to=str(tmp_path / "mirror"))
    monkeypatch.setattr(
        DirectoryStore, "open_file", lambda *args, **kwargs: pytest.fail("a file was fetched")
    )
    error = refused(tmp_path / "mirror", UnsafeFile)
    assert "adapter_model.bin is refused before it is fetched" in error.problem


def test_a_pickle_under_another_name_is_refused_after_it_is_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgelora.transfer.pushing.check", read_manifest)
    folder = write_adapter(tmp_path / "bad", extra={"notes.txt": b"\x80\x04\x95abc"})
    push(folder, "alice/decimals", to=str(tmp_path / "mirror"))
    assert "notes.txt" in refused(tmp_path / "mirror", UnsafeFile).problem


def test_a_file_swapped_while_it_is_read_is_caught(mirror: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    open_file = DirectoryStore.open_file

    def swap(store: DirectoryStore, snapshot: Snapshot, path: str, *, offset: int = 0) -> BinaryIO:
        overwrite(blob_of(mirror, path), b"swapped")
        return open_file(store, snapshot, path, offset=offset)

    monkeypatch.setattr(DirectoryStore, "open_file", swap)
    refused(mirror, DigestMismatch)


def test_names_of_folders_that_are_no_adapters_are_passed_over(mirror: Path) -> None:
    for name in ("..--x", "a--b--c", "A--b", "nodashes", ".hidden"):
        (mirror / "repos/models" / name / "refs/tags").mkdir(parents=True)
        (mirror / "repos/models" / name / "refs/tags/1.0.0").write_text("x")
    (mirror / "repos/models/alice--decimals/refs/tags/.tmp").write_text("x")
    assert DirectoryStore(mirror).list_adapters() == ["alice/decimals"]
    assert DirectoryStore(mirror).fsck().is_clean


def test_a_staging_folder_of_somebody_else_is_not_used(mirror: Path, tmp_path: Path) -> None:
    (tmp_path / "evil").mkdir()
    (tmp_path / ".got.pulling").symlink_to(tmp_path / "evil")
    with pytest.raises(PathError, match="is not a directory of the current user"):
        pull("alice/decimals", str(mirror), tmp_path / "got")
    assert list((tmp_path / "evil").iterdir()) == []
