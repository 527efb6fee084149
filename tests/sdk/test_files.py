"""Writing and reading files safely."""

from __future__ import annotations

import errno
import os
import signal
from pathlib import Path

import pytest
from crashes import fork, kill, wait_for

from edgelora.confined import open_regular, read_regular
from edgelora.errors import DiskFull, MissingFile, PathError, TargetExists
from edgelora.files import (
    atomic_write,
    exchange,
    exclusive_lock,
    lock_if_free,
    publish_directory,
    publish_new_directory,
    shared_lock,
    write_new,
)
from edgelora.locations import cache_dir, config_dir, home


def test_a_write_replaces_the_whole_content_and_makes_the_folders(tmp_path: Path) -> None:
    path = tmp_path / "a/b/file"
    atomic_write(path, b"one")
    atomic_write(path, b"two")
    assert path.read_bytes() == b"two"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_leaves_the_old_content_and_no_litter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def refuse(descriptor: int) -> None:
        raise OSError(code, "full")

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(DiskFull, match="no space left while writing") as caught:
        atomic_write(path, b"new")
    assert "free space" in caught.value.fix and caught.value.exit_code == 8
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_new_file_never_follows_a_link_or_replaces_a_file(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "victim")
    (tmp_path / "file").write_bytes(b"")
    for name in ("link", "file"):
        with pytest.raises(FileExistsError):
            write_new(tmp_path / name, b"x")
    assert not (tmp_path / "victim").exists()


def test_two_folders_are_exchanged(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).write_text(name)
    exchange(tmp_path / "a", tmp_path / "b")
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["b"]
    assert [path.name for path in (tmp_path / "b").iterdir()] == ["a"]


def test_folders_are_exchanged_where_the_kernel_cannot_do_it_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ctypes.CDLL", lambda *args, **kwargs: object())
    test_two_folders_are_exchanged(tmp_path)


def test_a_published_directory_takes_a_free_name_or_the_place_of_the_old_one(tmp_path: Path) -> None:
    for content in ("old", "new"):
        (tmp_path / "staging").mkdir(exist_ok=True)
        (tmp_path / "staging/file").write_text(content)
        publish_directory(tmp_path / "staging", tmp_path / "target")
        assert (tmp_path / "target/file").read_text() == content
        assert (tmp_path / "staging").exists() == (content == "new")
    assert (tmp_path / "staging/file").read_text() == "old"


def test_there_is_no_moment_without_a_published_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("staging", "target"):
        (tmp_path / name).mkdir()

    def refuse(source: Path, target: Path) -> None:
        raise AssertionError(f"{source} is renamed away")

    monkeypatch.setattr(os, "rename", refuse)
    publish_directory(tmp_path / "staging", tmp_path / "target")


@pytest.mark.parametrize("kernel_can", [True, False])
def test_a_new_directory_replaces_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kernel_can: bool
) -> None:
    if not kernel_can:
        monkeypatch.setattr("ctypes.CDLL", lambda *args, **kwargs: object())
    staging, target = tmp_path / "staging", tmp_path / "target"
    for name in ("staging", "target"):
        (tmp_path / name).mkdir()
    with pytest.raises(TargetExists, match="target exists already"):
        publish_new_directory(staging, target)
    target.rmdir()
    target.symlink_to(tmp_path / "nowhere")
    with pytest.raises(TargetExists, match="target exists already"):
        publish_new_directory(staging, target)
    target.unlink()
    publish_new_directory(staging, target)
    assert target.is_dir()
    assert not staging.exists()


def test_a_lock_is_released_when_its_holder_is_killed(tmp_path: Path) -> None:
    reading, writing = os.pipe()

    def hold() -> None:
        with exclusive_lock(tmp_path / "lock"):
            os.write(writing, b"x")
            signal.pause()

    pid = fork(hold)
    os.read(reading, 1)
    with lock_if_free(tmp_path / "lock") as held:
        assert not held
    kill(pid)
    wait_for(pid)
    with lock_if_free(tmp_path / "lock", wait_s=5) as held:
        assert held


def test_sharers_keep_an_exclusive_taker_out(tmp_path: Path) -> None:
    with (
        shared_lock(tmp_path / "lock"),
        shared_lock(tmp_path / "lock"),
        lock_if_free(tmp_path / "lock") as held,
    ):
        assert not held


def test_a_regular_file_below_a_root_is_read_even_if_the_root_is_a_link(tmp_path: Path) -> None:
    (tmp_path / "real/sub").mkdir(parents=True)
    (tmp_path / "real/sub/file").write_bytes(b"x" * 10)
    (tmp_path / "root").symlink_to(tmp_path / "real")
    assert read_regular(tmp_path / "root", "sub/file", limit=10) == b"x" * 10
    with pytest.raises(PathError, match="longer than the 9 bytes"):
        read_regular(tmp_path / "root", "sub/file", limit=9)
    with pytest.raises(MissingFile, match="does not exist"):
        open_regular(tmp_path / "root", "sub/other")


def test_links_devices_pipes_and_folders_are_refused(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "root/folder").mkdir(parents=True)
    (tmp_path / "root/file-link").symlink_to(tmp_path / "secret")
    (tmp_path / "root/folder-link").symlink_to(tmp_path)
    os.mkfifo(tmp_path / "root/pipe")
    for path in ("file-link", "folder-link/secret", "pipe", "folder"):
        with pytest.raises(PathError, match="not a plain file") as caught:
            open_regular(tmp_path / "root", path)
        assert "replace it by a plain file" in caught.value.fix


@pytest.mark.parametrize("path", ["../secret", "/etc/passwd", "a//b", "a/./b", "", "a\0b"])
def test_paths_that_lead_outside_are_refused(tmp_path: Path, path: str) -> None:
    with pytest.raises(PathError, match="leads outside"):
        open_regular(tmp_path, path)


def test_everything_is_below_edgelora_home_if_it_is_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGELORA_HOME", str(tmp_path))
    assert {home(), config_dir(), cache_dir()} == {tmp_path, tmp_path / "config", tmp_path / "cache"}
    monkeypatch.delenv("EDGELORA_HOME")
    assert home().name == config_dir().name == cache_dir().name == "edgelora"
