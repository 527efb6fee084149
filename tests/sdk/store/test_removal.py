"""A version never changes, also when it is removed: only what it was can come back."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from adapter_folders import write_adapter
from crashes import die_at_every_step

from edgelora.errors import DigestMismatch, PublishRaced, VersionExists
from edgelora.manifest import parse_manifest
from edgelora.store import DirectoryStore, Publication, parse_reference
from edgelora.transfer import Receipt, push, remove


@pytest.fixture
def mirror(tmp_path: Path) -> Path:
    return tmp_path / "mirror"


def publish(mirror: Path, version: str, *, seed: int = 0, to: str = "alice/decimals") -> Receipt:
    folder = mirror.parent / f"{version}-{seed}"
    if not folder.exists():
        write_adapter(folder, name="alice/decimals", version=version, seed=seed)
    return push(folder, f"{to}@{version}", to=str(mirror))


def release_sequence(mirror: Path, reference: str) -> int:
    data = DirectoryStore(mirror).read_manifest(parse_reference(reference))
    return parse_manifest(data).identity.release_sequence


def tombstone(mirror: Path, version: str) -> Path:
    return mirror / "repos/models/alice--decimals/refs/removed" / version


@pytest.mark.parametrize("others", [[], ["1.1.0"]])
def test_other_content_never_comes_under_a_removed_version(mirror: Path, others: list[str]) -> None:
    for version in ["1.0.0", *others]:
        publish(mirror, version)
    remove("alice/decimals@1.0.0", str(mirror))
    with pytest.raises(VersionExists, match="never changes, also when it was removed") as caught:
        publish(mirror, "1.0.0", seed=1)
    assert caught.value.fix == f"publish it as alice/decimals@{'1.1.1' if others else '1.0.1'}"
    assert DirectoryStore(mirror).versions("alice", "decimals") == others


def test_the_next_version_is_never_one_that_was_removed(mirror: Path) -> None:
    publish(mirror, "1.0.0")
    publish(mirror, "1.0.1")
    remove("alice/decimals@1.0.1", str(mirror))
    with pytest.raises(VersionExists) as caught:
        publish(mirror, "1.0.0", seed=1)
    assert caught.value.fix == "publish it as alice/decimals@1.0.2"


@pytest.mark.parametrize("to", ["alice/decimals", "factory/line-7"])
def test_the_same_content_comes_back_as_the_same_commit(mirror: Path, to: str) -> None:
    first = publish(mirror, "1.0.0", to=to)
    remove(f"{to}@1.0.0", str(mirror))
    again = publish(mirror, "1.0.0", to=to)
    assert (again.commit, again.manifest_digest) == (first.commit, first.manifest_digest)
    remove(f"{to}@1.0.0", str(mirror))
    assert publish(mirror, "1.0.0", to=to).commit == first.commit
    assert DirectoryStore(mirror).fsck().is_clean


def test_the_same_content_comes_back_even_if_its_commit_was_collected(mirror: Path) -> None:
    publish(mirror, "0.9.0")
    first = publish(mirror, "1.0.0")
    publish(mirror, "1.1.0")
    remove("alice/decimals@1.0.0", str(mirror))
    (mirror / f"repos/models/alice--decimals/commits/{first.commit}.json").unlink()
    again = publish(mirror, "1.0.0")
    assert again.manifest_digest == first.manifest_digest and again.commit != first.commit
    store = DirectoryStore(mirror)
    newest = store.resolve(parse_reference("alice/decimals@main")).reference.version
    assert (newest, store.fsck().problems) == ("1.1.0", ())


def test_the_release_sequence_goes_on_after_a_removal(mirror: Path) -> None:
    publish(mirror, "1.0.0")
    publish(mirror, "1.1.0")
    for version in ("1.1.0", "1.0.0"):
        remove(f"alice/decimals@{version}", str(mirror))
    publish(mirror, "1.2.0")
    assert release_sequence(mirror, "alice/decimals@1.2.0") == 3
    publish(mirror, "1.0.0")
    assert release_sequence(mirror, "alice/decimals@1.0.0") == 1
    publish(mirror, "1.3.0")
    assert release_sequence(mirror, "alice/decimals@1.3.0") == 4


def test_a_sequence_that_was_used_and_removed_meanwhile_is_refused(mirror: Path) -> None:
    publish(mirror, "1.0.0")
    store = DirectoryStore(mirror)
    head = store.head("alice", "decimals")
    files = store.resolve(parse_reference("alice/decimals")).files
    publish(mirror, "1.1.0")
    remove("alice/decimals@1.1.0", str(mirror))
    assert store.head("alice", "decimals") == head
    with pytest.raises(PublishRaced, match="others publish to alice/decimals"):
        store.publish(Publication(parse_reference("alice/decimals@1.2.0"), files, head, 2))


def test_a_damaged_tombstone_holds_up_its_version_and_no_other(mirror: Path) -> None:
    publish(mirror, "1.0.0")
    remove("alice/decimals@1.0.0", str(mirror))
    whole = tombstone(mirror, "1.0.0").read_bytes()
    for data in (
        b"",
        b"{}",
        b"[]",
        whole[:-9],
        whole.replace(b'"releaseSequence": 1', b'"releaseSequence": true'),
    ):
        tombstone(mirror, "1.0.0").write_bytes(data)
        with pytest.raises(DigestMismatch, match="is not the record of a removed version") as caught:
            publish(mirror, "1.0.0", seed=1)
        assert caught.value.fix.startswith("publish under another version")
        assert [problem.path for problem in DirectoryStore(mirror).fsck().problems] == [
            "repos/models/alice--decimals/refs/removed/1.0.0"
        ]
    publish(mirror, "1.1.0", seed=1)
    assert release_sequence(mirror, "alice/decimals@1.1.0") == 2


def test_a_tombstone_of_another_version_is_refused(mirror: Path) -> None:
    publish(mirror, "1.0.0")
    remove("alice/decimals@1.0.0", str(mirror))
    shutil.copy(tombstone(mirror, "1.0.0"), tombstone(mirror, "1.0.1"))
    with pytest.raises(DigestMismatch, match=r"is of alice/decimals@1\.0\.0, not alice/decimals@1\.0\.1"):
        publish(mirror, "1.0.1")
    assert len(DirectoryStore(mirror).fsck().problems) == 1


def test_a_tombstone_that_contradicts_the_tag_is_reported(mirror: Path) -> None:
    publish(mirror, "1.0.0")
    remove("alice/decimals@1.0.0", str(mirror))
    publish(mirror, "1.0.0")
    path = tombstone(mirror, "1.0.0")
    size = DirectoryStore(mirror).resolve(parse_reference("alice/decimals")).manifest.size
    path.write_bytes(path.read_bytes().replace(b'"size": %d' % size, b'"size": %d' % (size + 1)))
    (problem,) = DirectoryStore(mirror).fsck().problems
    assert problem.problem == "1.0.0 was removed with other content than is published under it now"


def test_a_removal_that_dies_never_frees_the_version(tmp_path: Path, mirror: Path) -> None:
    template = tmp_path / "template"
    publish(mirror, "0.9.0")
    publish(mirror, "1.0.0")
    other = write_adapter(tmp_path / "other", version="1.0.0", seed=1)
    os.rename(mirror, template)

    def restore() -> None:
        shutil.rmtree(mirror, ignore_errors=True)
        shutil.copytree(template, mirror)

    for _step in die_at_every_step(lambda: remove("alice/decimals@1.0.0", str(mirror)), restore):
        assert DirectoryStore(mirror).fsck().problems == ()
        with pytest.raises(VersionExists):
            push(other, "alice/decimals", to=str(mirror))


@pytest.mark.parametrize("damage", ["changed", "lost"])
def test_a_damaged_manifest_holds_up_no_other_version(mirror: Path, damage: str) -> None:
    publish(mirror, "1.0.0")
    publish(mirror, "1.1.0")
    sha256 = DirectoryStore(mirror).resolve(parse_reference("alice/decimals@1.1.0")).manifest.sha256
    blob = mirror / "blobs/sha256" / sha256[:2] / sha256
    blob.unlink()
    if damage == "changed":
        blob.write_text("{}")
    publish(mirror, "1.2.0")
    assert release_sequence(mirror, "alice/decimals@1.2.0") == 3
    with pytest.raises(DigestMismatch, match="is damaged or lost, so nothing can be compared") as caught:
        publish(mirror, "1.1.0")
    assert caught.value.fix == "publish it as alice/decimals@1.2.1: only this version is affected"


def test_a_damaged_commit_does_not_give_its_sequence_to_another_version(mirror: Path) -> None:
    publish(mirror, "1.0.0")
    newest = publish(mirror, "1.1.0")
    (mirror / f"repos/models/alice--decimals/commits/{newest.commit}.json").unlink()
    publish(mirror, "1.2.0")
    assert release_sequence(mirror, "alice/decimals@1.2.0") == 3
