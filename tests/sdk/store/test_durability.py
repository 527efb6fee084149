"""In which order a push and a pull reach the disk, seen by recording the calls."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from adapter_folders import write_adapter

from edgelora.transfer import pull, push


class Recorder:
    """What was synced and renamed, in order; paths are those at the time of the call."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls: list[tuple[str, str, str]] = []
        fsync, replace, rename = os.fsync, os.replace, os.rename

        def record_fsync(descriptor: int) -> None:
            self.calls.append(("sync", os.readlink(f"/proc/self/fd/{descriptor}"), ""))
            fsync(descriptor)

        def record_move(move, source, target) -> None:
            self.calls.append(("move", os.fspath(source), os.fspath(target)))
            move(source, target)

        monkeypatch.setattr(os, "fsync", record_fsync)
        monkeypatch.setattr(os, "replace", lambda source, target: record_move(replace, source, target))
        monkeypatch.setattr(os, "rename", lambda source, target: record_move(rename, source, target))

    def moves(self) -> list[int]:
        return [index for index, (kind, *_) in enumerate(self.calls) if kind == "move"]

    def is_synced(self, path: str, calls: slice) -> bool:
        return ("sync", path, "") in self.calls[calls]


def test_every_file_of_a_push_is_synced_before_its_rename_and_its_folder_before_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapter = write_adapter(tmp_path / "adapter")
    seen = Recorder(monkeypatch)
    push(adapter, "alice/decimals", to=str(tmp_path / "mirror"))
    moves = seen.moves()
    assert len(moves) == 1 + 4 + 4, "VERSION, four blobs, repo.json, the commit, the tag and main"
    for this, following in zip(moves, [*moves[1:], len(seen.calls)], strict=True):
        _, source, target = seen.calls[this]
        assert seen.is_synced(source, slice(0, this)), f"{source} was renamed before it was synced"
        assert seen.is_synced(str(Path(target).parent), slice(this, following)), f"{target} may be lost"


def test_the_tag_is_written_after_everything_it_leads_to_and_main_after_the_tag(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapter = write_adapter(tmp_path / "adapter")
    seen = Recorder(monkeypatch)
    push(adapter, "alice/decimals", to=str(tmp_path / "mirror"))
    order = [Path(seen.calls[index][2]).relative_to(tmp_path / "mirror").parts for index in seen.moves()]
    kinds = [parts[-2] if parts[0] == "repos" else parts[0] for parts in order]
    assert kinds == ["VERSION", *["blobs"] * 4, "alice--decimals", "commits", "tags", "heads"]


def test_new_folders_of_a_mirror_are_synced_into_their_parents(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapter = write_adapter(tmp_path / "adapter")
    seen = Recorder(monkeypatch)
    push(adapter, "alice/decimals", to=str(tmp_path / "mirror"))
    for path in (tmp_path / "mirror").rglob("*"):
        if path.is_dir():
            assert seen.is_synced(str(path.parent), slice(None)), path


def test_every_file_of_a_pull_is_synced_before_the_folder_is_put_in_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    push(write_adapter(tmp_path / "adapter"), "alice/decimals", to=str(tmp_path / "mirror"))
    seen = Recorder(monkeypatch)
    target = tmp_path / "got"
    pull("alice/decimals", str(tmp_path / "mirror"), target)
    [place] = [index for index in seen.moves() if seen.calls[index][2] == str(target)]
    staged = {Path(seen.calls[index][2]).name: index for index in seen.moves() if index < place}
    assert {path.name for path in target.iterdir()} <= staged.keys()
    for name, index in staged.items():
        assert seen.is_synced(seen.calls[index][1], slice(0, index)), (
            f"{name} was renamed before it was synced"
        )
    assert seen.is_synced(str(tmp_path), slice(place, None))
