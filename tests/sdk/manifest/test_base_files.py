"""A base that is written to while it is identified and loaded is found out."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from edgelora import micro
from edgelora.errors import ModelError
from edgelora.manifest.base_files import check_base_unchanged, state_of_base


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return shutil.copytree(micro.path(), tmp_path / "base", copy_function=shutil.copyfile)


def test_a_base_that_nobody_touches_stays_the_same(folder: Path) -> None:
    before = state_of_base(folder)
    (folder / "model.safetensors").read_bytes()
    (folder / "notes.md").write_text("nothing that is loaded")
    check_base_unchanged(folder, before)


def in_place(folder: Path) -> None:
    """Keeps inode, size and mtime."""
    path = folder / "model.safetensors"
    status = path.stat()
    with path.open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"\0")
    after = status
    while after.st_ctime_ns == status.st_ctime_ns:  # The kernel's clock for files may tick every 10 ms.
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
        after = path.stat()


def replaced(folder: Path) -> None:
    shutil.copy2(folder / "model.safetensors", folder / "new")
    os.replace(folder / "new", folder / "model.safetensors")


def configured(folder: Path) -> None:
    (folder / "config.json").write_text((folder / "config.json").read_text() + " ")


def added(folder: Path) -> None:
    (folder / "chat_template.jinja").write_text("{{ messages }}")


def taken_away(folder: Path) -> None:
    (folder / "generation_config.json").unlink()


def swapped(folder: Path) -> None:
    """Another folder under the same name, its files equal in size and mtime."""
    shutil.copytree(folder, folder.with_name("other"))
    folder.rename(folder.with_name("old"))
    folder.with_name("other").rename(folder)


@pytest.mark.parametrize("change", [in_place, replaced, configured, added, taken_away, swapped])
def test_any_change_of_what_is_loaded_is_refused(folder: Path, change: Callable[[Path], None]) -> None:
    before = state_of_base(folder)
    change(folder)
    with pytest.raises(ModelError, match="changed since the base was checked") as caught:
        check_base_unchanged(folder, before)
    assert caught.value.fix == "see who writes there; repeat when nobody does"


def test_a_base_that_is_gone_cannot_be_read(folder: Path) -> None:
    before = state_of_base(folder)
    shutil.rmtree(folder)
    with pytest.raises(ModelError, match="cannot be read"):
        check_base_unchanged(folder, before)
