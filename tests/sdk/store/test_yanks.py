"""A yanked version stays, is passed over, and is answered only to who names it."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from adapter_folders import write_adapter
from crashes import die_at_every_step

from edgelora.errors import AdapterNotFound, ReferenceFormError, Yanked
from edgelora.store import DirectoryStore, parse_reference
from edgelora.store.yanks import REASON_LOST
from edgelora.transfer import push, remove

WHY = "answers 9.11 again"


@pytest.fixture
def mirror(tmp_path: Path) -> Path:
    return tmp_path / "mirror"


@pytest.fixture
def store(mirror: Path) -> DirectoryStore:
    for version in ("1.0.0", "1.1.0", "1.2.0-rc.1"):
        write_adapter(mirror.parent / version, version=version)
        push(mirror.parent / version, "alice/decimals", to=str(mirror))
    return DirectoryStore(mirror)


def record(mirror: Path, version: str) -> Path:
    return mirror / "repos/models/alice--decimals/refs/yanked" / version


def latest(store: DirectoryStore) -> str | None:
    return store.resolve(parse_reference("alice/decimals")).reference.version


def test_the_latest_version_is_one_that_stands(store: DirectoryStore) -> None:
    assert store.yank(parse_reference("alice/decimals@1.1.0"), WHY).yanked == WHY
    assert latest(store) == "1.0.0"
    assert store.yanked("alice", "decimals") == {"1.1.0": WHY}
    store.yank(parse_reference("alice/decimals@1.0.0"), WHY)
    assert latest(store) == "1.2.0-rc.1"
    assert store.fsck().problems == ()


def test_a_yanked_version_is_answered_to_who_names_it(store: DirectoryStore) -> None:
    digest = store.resolve(parse_reference("alice/decimals@1.1.0")).manifest.sha256
    store.yank(parse_reference("alice/decimals@1.1.0"), WHY)
    for at in ("1.1.0", f"sha256:{digest}"):
        snapshot = store.resolve(parse_reference(f"alice/decimals@{at}"))
        assert (snapshot.reference.version, snapshot.yanked) == ("1.1.0", WHY)
    assert store.resolve(parse_reference("alice/decimals@1.0.0")).yanked is None
    assert store.versions("alice", "decimals") == ["1.0.0", "1.1.0", "1.2.0-rc.1"]


def test_where_every_version_is_yanked_none_is_the_latest(store: DirectoryStore) -> None:
    for version in store.versions("alice", "decimals"):
        store.yank(parse_reference(f"alice/decimals@{version}"), WHY)
    with pytest.raises(
        Yanked, match=r"every version of alice/decimals was yanked, .* because: answers 9.11"
    ) as caught:
        latest(store)
    assert "edgelora pull alice/decimals@1.2.0-rc.1 --allow-yanked" in caught.value.fix


def test_undoing_lets_the_version_stand_again(store: DirectoryStore) -> None:
    store.yank(parse_reference("alice/decimals@1.1.0"), WHY)
    assert store.unyank(parse_reference("alice/decimals@1.1.0")).yanked is None
    assert store.unyank(parse_reference("alice/decimals@1.1.0")).yanked is None
    assert (latest(store), store.yanked("alice", "decimals")) == ("1.1.0", {})


def test_a_later_reason_replaces_an_earlier_one(store: DirectoryStore) -> None:
    for reason in (WHY, "leaks a customer's name"):
        store.yank(parse_reference("alice/decimals@1.1.0"), reason)
    assert store.yanked("alice", "decimals") == {"1.1.0": "leaks a customer's name"}


def test_a_yank_says_which_version(store: DirectoryStore) -> None:
    with pytest.raises(ReferenceFormError, match="does not say which version to yank"):
        store.yank(parse_reference("alice/decimals"), WHY)
    with pytest.raises(AdapterNotFound, match=r"but not 3\.0\.0"):
        store.yank(parse_reference("alice/decimals@3.0.0"), WHY)


@pytest.mark.parametrize("reason", ["", "   ", "two\nlines", "\x1b[2J", "\u202e", "x" * 501])
def test_a_reason_is_one_line_that_can_be_shown(store: DirectoryStore, reason: str) -> None:
    with pytest.raises(ReferenceFormError, match="is not a reason that can be shown"):
        store.yank(parse_reference("alice/decimals@1.1.0"), reason)


def test_the_longest_reason_fits_its_record(store: DirectoryStore) -> None:
    store.yank(parse_reference("alice/decimals@1.1.0"), "\U0001f321" * 500)
    assert store.yanked("alice", "decimals") == {"1.1.0": "\U0001f321" * 500}


def test_a_damaged_record_still_yanks_and_is_reported(store: DirectoryStore, mirror: Path) -> None:
    store.yank(parse_reference("alice/decimals@1.1.0"), WHY)
    whole = record(mirror, "1.1.0").read_bytes()
    damaged = (
        b"",
        b"{}",
        b"[]",
        whole[:-9],
        whole.replace(WHY.encode(), b"\\u001b[2J"),
        whole.replace(b'"format": 1', b'"format": 2'),
        whole.replace(b'"size": ', b'"size": -'),
        whole.replace(b"alice/decimals", b"alice/other"),
        b" " * 9000,
    )
    for data in damaged:
        assert data != whole
        record(mirror, "1.1.0").write_bytes(data)
        assert store.yanked("alice", "decimals") == {"1.1.0": REASON_LOST}
        assert latest(store) == "1.0.0"
        (problem,) = store.fsck().problems
        assert problem.path == "repos/models/alice--decimals/refs/yanked/1.1.0"
    store.yank(parse_reference("alice/decimals@1.1.0"), WHY)
    assert store.fsck().is_clean


def test_a_record_of_another_content_or_of_no_version_is_reported(
    store: DirectoryStore, mirror: Path
) -> None:
    store.yank(parse_reference("alice/decimals@1.1.0"), WHY)
    whole = record(mirror, "1.1.0").read_bytes()
    sha256 = store.resolve(parse_reference("alice/decimals@1.1.0")).manifest.sha256.encode()
    record(mirror, "1.1.0").write_bytes(whole.replace(sha256, b"0" * 64))
    (problem,) = store.fsck().problems
    assert problem.problem == "1.1.0 was yanked with other content than is published under it now"
    record(mirror, "1.1.0").unlink()
    record(mirror, "9.0.0").write_bytes(whole.replace(b'"1.1.0"', b'"9.0.0"'))
    (problem,) = store.fsck().problems
    assert problem.problem == "9.0.0 is yanked, and was never published"


def test_a_removed_version_comes_back_yanked(store: DirectoryStore, mirror: Path) -> None:
    store.yank(parse_reference("alice/decimals@1.1.0"), WHY)
    remove("alice/decimals@1.1.0", str(mirror))
    assert store.fsck().is_clean
    push(mirror.parent / "1.1.0", "alice/decimals", to=str(mirror))
    assert store.resolve(parse_reference("alice/decimals@1.1.0")).yanked == WHY
    assert store.fsck().is_clean


def test_a_yank_that_dies_is_there_or_is_not(store: DirectoryStore, mirror: Path) -> None:
    template = mirror.parent / "template"
    os.rename(mirror, template)

    def restore() -> None:
        shutil.rmtree(mirror, ignore_errors=True)
        shutil.copytree(template, mirror)

    def work() -> None:
        DirectoryStore(mirror).yank(parse_reference("alice/decimals@1.1.0"), WHY)

    seen = set()
    for _step in die_at_every_step(work, restore):
        survivor = DirectoryStore(mirror)
        seen.add(survivor.resolve(parse_reference("alice/decimals@1.1.0")).yanked)
        assert survivor.fsck().problems == ()
    assert seen <= {None, WHY} and None in seen
