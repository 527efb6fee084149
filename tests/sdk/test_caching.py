"""The cache of remote files: apart from pulled adapters, never believed, and enough offline."""

from __future__ import annotations

import os
import time
from contextlib import nullcontext
from pathlib import Path

import pytest
from adapter_folders import write_adapter
from loopback_hub import LoopbackHub

from edgelora.errors import AdapterNotFound, OfflineNotCached, Yanked
from edgelora.locations import cache_dir
from edgelora.store.blob_cache import BlobCache
from edgelora.transfer import (
    cached_files,
    list_cache,
    prunable,
    pull,
    push,
    remove,
    remove_cached,
    unyank,
    verify_cache,
    yank,
)
from edgelora.verify import verify

WEIGHTS = "adapter_model.safetensors"


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.fixture
def published(hub: LoopbackHub, tmp_path: Path) -> LoopbackHub:
    adapter = write_adapter(tmp_path / "adapter", rows=1024)
    push(adapter, "alice/decimals", to=hub.url)
    return hub


def blob(sha256: str) -> Path:
    return cache_dir() / "blobs" / sha256[:2] / sha256


def digest_of(name: str) -> str:
    return next(entry.sha256 for entry in list_cache() if entry.used_by[0].endswith(f": {name}"))


def test_a_pulled_adapter_and_the_cache_are_two_files_and_the_cached_one_is_read_only(
    published: LoopbackHub,
) -> None:
    usual = os.umask(0o077)
    try:
        pulled = pull("alice/decimals", published.url)
    finally:
        os.umask(usual)
    entries = list_cache()
    assert len(entries) == 4
    assert not os.path.samefile(pulled.folder / WEIGHTS, blob(digest_of(WEIGHTS)))
    assert {blob(entry.sha256).stat().st_mode & 0o777 for entry in entries} == {0o444}
    assert (pulled.folder / WEIGHTS).stat().st_mode & 0o777 == 0o644
    assert entries[0].used_by[0].startswith(f"alice/decimals@1.0.0 ({published.url}): ")
    assert verify(pulled.folder) == []


def test_editing_one_pulled_adapter_changes_no_other_and_not_the_cache(
    published: LoopbackHub, tmp_path: Path
) -> None:
    first = pull("alice/decimals", published.url, into=tmp_path / "first").folder
    second = pull("alice/decimals", published.url, into=tmp_path / "second").folder
    for path in first.iterdir():
        with open(path, "r+b") as file:
            file.write(b"EDIT")
    assert verify(second) == []
    assert verify_cache().dropped == ()
    third = pull("alice/decimals", published.url, into=tmp_path / "third")
    assert third.fetched_bytes == 0 and verify(third.folder) == []


def test_what_is_cached_is_not_fetched_again(published: LoopbackHub, tmp_path: Path) -> None:
    pull("alice/decimals", published.url)
    remove("alice/decimals@1.0.0")
    asked = len(published.asked("GET", "/resolve/"))
    pulled = pull("alice/decimals", published.url)
    assert pulled.fetched_bytes == 0 and verify(pulled.folder) == []
    assert [each.path[-13:] for each in published.asked("GET", "/resolve/")[asked:]] == ["edgelora.json"]


def test_files_that_two_versions_share_are_fetched_once(published: LoopbackHub, tmp_path: Path) -> None:
    push(write_adapter(tmp_path / "newer", version="1.1.0", rows=1024), "alice/decimals", to=published.url)
    pull("alice/decimals@1.0.0", published.url)
    assert pull("alice/decimals@1.1.0", published.url).fetched_bytes == 0


def test_a_damaged_entry_is_dropped_and_fetched_again(published: LoopbackHub) -> None:
    weights = pull("alice/decimals", published.url).folder / WEIGHTS
    for path in (weights, blob(digest_of(WEIGHTS))):
        path.chmod(0o644)
        path.write_bytes(b"x" + path.read_bytes()[1:])
    again = pull("alice/decimals", published.url)
    assert again.fetched_bytes == weights.stat().st_size and verify(again.folder) == []
    assert verify_cache().dropped == ()


def test_a_link_in_the_cache_is_not_followed(published: LoopbackHub, tmp_path: Path) -> None:
    pull("alice/decimals", published.url)
    remove("alice/decimals@1.0.0")
    entry = blob(digest_of(WEIGHTS))
    elsewhere = tmp_path / "elsewhere"
    entry.rename(elsewhere)
    entry.symlink_to(elsewhere)
    pulled = pull("alice/decimals", published.url)
    assert pulled.fetched_bytes > 100_000 and not (pulled.folder / WEIGHTS).is_symlink()


def test_the_cache_is_copied_byte_by_byte_where_the_file_system_cannot(
    published: LoopbackHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "copy_file_range", refuse)
    pull("alice/decimals", published.url)
    remove("alice/decimals@1.0.0")
    pulled = pull("alice/decimals", published.url)
    assert pulled.fetched_bytes == 0 and verify(pulled.folder) == []


def test_what_a_killed_process_left_of_a_copy_goes_with_the_next_removal(published: LoopbackHub) -> None:
    pull("alice/decimals", published.url)
    unfinished = blob(digest_of(WEIGHTS)).parent / ".0123456789abcdef.tmp"
    unfinished.write_bytes(b"half")
    remove_cached([])
    assert not unfinished.exists() and len(list_cache()) == 4


def test_a_cache_that_cannot_be_written_does_not_stop_a_pull(published: LoopbackHub) -> None:
    cache_dir().mkdir(parents=True, exist_ok=True)
    (cache_dir() / "blobs").write_text("in the way")
    (cache_dir() / "pins").write_text("in the way")
    assert verify(pull("alice/decimals", published.url).folder) == []


def test_a_pull_from_a_directory_leaves_the_cache_alone(tmp_path: Path) -> None:
    push(write_adapter(tmp_path / "adapter"), "alice/decimals", to=str(tmp_path / "mirror"))
    pull("alice/decimals", str(tmp_path / "mirror"))
    assert list_cache() == []


def test_pruning_takes_what_was_not_used_for_long_then_what_was_used_longest_ago(
    published: LoopbackHub,
) -> None:
    pull("alice/decimals", published.url)
    old = digest_of("README.md")
    os.utime(blob(old), (time.time() - 90 * 86_400, time.time()))
    assert [entry.sha256 for entry in prunable(older_than_s=30 * 86_400)] == [old]
    total = sum(entry.size_bytes for entry in list_cache())
    assert [entry.sha256 for entry in prunable(max_bytes=total - 1)] == [old]
    assert len(prunable(max_bytes=0)) == 4
    remove_cached(prunable(older_than_s=30 * 86_400))
    assert len(list_cache()) == 3


def test_removing_by_name_leaves_what_other_versions_need(published: LoopbackHub, tmp_path: Path) -> None:
    push(write_adapter(tmp_path / "newer", version="1.1.0", rows=1024), "alice/decimals", to=published.url)
    pull("alice/decimals@1.0.0", published.url)
    pull("alice/decimals@1.1.0", published.url)
    [manifest] = cached_files(["alice/decimals@1.0.0"])
    assert manifest.used_by[0].endswith("edgelora.json")
    assert len(cached_files(["alice/decimals"])) == 5
    assert [entry.sha256 for entry in cached_files([manifest.sha256[:12]])] == [manifest.sha256]
    with pytest.raises(AdapterNotFound, match="the cache holds nothing of 'bob/other'"):
        cached_files(["bob/other"])


def test_emptying_the_cache_leaves_pulled_adapters_whole(published: LoopbackHub) -> None:
    pulled = pull("alice/decimals", published.url)
    remove_cached(list_cache())
    assert list_cache() == [] and verify(pulled.folder) == []


def test_verify_drops_what_is_damaged(published: LoopbackHub) -> None:
    pull("alice/decimals", published.url)
    sha256 = digest_of("README.md")
    blob(sha256).write_bytes(b"other")
    check = verify_cache()
    assert (check.intact, check.dropped) == (3, (sha256,))


def test_a_cached_version_can_be_pulled_offline_by_its_number_or_digest(
    published: LoopbackHub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    first = pull("alice/decimals", published.url)
    digest = next(entry.sha256 for entry in list_cache() if "edgelora.json" in entry.used_by[0])
    asked = len(published.log)
    monkeypatch.setenv("EDGELORA_OFFLINE", "1")
    for at in ("1.0.0", f"sha256:{digest}"):
        pulled = pull(f"alice/decimals@{at}", published.url, tmp_path / at[:6])
        assert pulled.manifest == first.manifest and pulled.fetched_bytes == 0
    with pytest.raises(OfflineNotCached) as caught:
        pull("alice/decimals", published.url)
    assert "(alice/decimals@1.0.0)" in caught.value.fix
    blob(digest_of(WEIGHTS)).unlink()
    with pytest.raises(
        OfflineNotCached, match=r"adapter_model\.safetensors of alice/decimals is not in the cache"
    ):
        pull("alice/decimals@1.0.0", published.url, tmp_path / "third")
    assert len(published.log) == asked


def test_a_version_known_to_be_yanked_is_refused_offline_too(
    published: LoopbackHub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    yank("alice/decimals@1.0.0", "wrong units", published.url)
    pull("alice/decimals@1.0.0", published.url, allow_yanked=True)
    monkeypatch.setenv("EDGELORA_OFFLINE", "1")
    with pytest.raises(Yanked, match="wrong units"):
        pull("alice/decimals@1.0.0", published.url, tmp_path / "again")


def test_a_damaged_pin_is_passed_over(published: LoopbackHub, monkeypatch: pytest.MonkeyPatch) -> None:
    pull("alice/decimals", published.url)
    [pin] = (cache_dir() / "pins").iterdir()
    pin.write_text(pin.read_text().replace("1.0.0", "9.0.0"))
    monkeypatch.setenv("EDGELORA_OFFLINE", "1")
    with pytest.raises(OfflineNotCached):
        pull("alice/decimals@9.0.0", published.url)


def test_processes_share_one_cache_while_it_is_emptied(published: LoopbackHub, tmp_path: Path) -> None:
    from concurrent.futures import ThreadPoolExecutor

    def work(number: int) -> bool:
        BlobCache().remove([entry.sha256 for entry in BlobCache().entries()])
        return verify(pull("alice/decimals", published.url, tmp_path / str(number)).folder) == []

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(work, range(12)))


def test_a_version_that_is_known_to_be_yanked_is_refused_offline(
    published: LoopbackHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pull("alice/decimals", published.url)
    yank("alice/decimals@1.0.0", "backdoor", published.url)
    with pytest.raises(Yanked):
        pull("alice/decimals@1.0.0", published.url, into=tmp_path / "x")
    with monkeypatch.context() as offline:
        offline.setenv("EDGELORA_OFFLINE", "1")
        with pytest.raises(Yanked, match="was yanked by its publisher: backdoor"):
            pull("alice/decimals@1.0.0", published.url, into=tmp_path / "x")
        assert pull("alice/decimals@1.0.0", published.url, allow_yanked=True).yanked == "backdoor"
    unyank("alice/decimals@1.0.0", published.url)
    pull("alice/decimals", published.url)
    monkeypatch.setenv("EDGELORA_OFFLINE", "1")
    assert pull("alice/decimals@1.0.0", published.url, into=tmp_path / "x").yanked is None


@pytest.mark.parametrize("others", [[], ["1.1.0"]])
def test_a_pull_of_the_latest_tells_the_cache_what_was_yanked(
    published: LoopbackHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, others: list[str]
) -> None:
    pull("alice/decimals", published.url, into=tmp_path / "x")
    for version in others:
        push(write_adapter(tmp_path / version, version=version), "alice/decimals", to=published.url)
    yank("alice/decimals@1.0.0", "backdoor", published.url)
    with nullcontext() if others else pytest.raises(Yanked):
        pull("alice/decimals", published.url)
    monkeypatch.setenv("EDGELORA_OFFLINE", "1")
    with pytest.raises(Yanked, match="backdoor"):
        pull("alice/decimals@1.0.0", published.url, into=tmp_path / "x")
