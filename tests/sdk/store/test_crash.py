"""Whatever step a push, pull or removal dies at: nothing torn is visible, and the next try succeeds."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from adapter_folders import write_adapter
from crashes import die_at_every_step

from edgelora.store import DirectoryStore
from edgelora.transfer import list_adapters, list_published, pull, push, remove
from edgelora.verify import verify


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    return write_adapter(tmp_path / "adapter", extra={"deep/er/notes.txt": b"notes"})


@pytest.mark.parametrize("start", ["no mirror", "an older version"])
def test_a_push_that_dies_leaves_the_old_mirror_or_the_new(tmp_path: Path, adapter: Path, start: str) -> None:
    mirror, template = tmp_path / "mirror", tmp_path / "template"
    if start == "an older version":
        push(write_adapter(tmp_path / "older", version="0.9.0", seed=9), "alice/decimals", to=str(template))
    steps = 0
    visible = []

    def restore() -> None:
        shutil.rmtree(mirror, ignore_errors=True)
        # Every round is another history of the mirror, which nobody has seen yet.
        shutil.rmtree(Path(os.environ["EDGELORA_HOME"]) / "state", ignore_errors=True)
        if template.exists():
            shutil.copytree(template, mirror)

    for _step in die_at_every_step(lambda: push(adapter, "alice/decimals", to=str(mirror)), restore):
        steps += 1
        store = DirectoryStore(mirror)
        if (mirror / "VERSION").exists():
            assert store.fsck().problems == ()
            assert all(found.problem is None for found in list_published(str(mirror)))
            visible.append("1.0.0" in store.versions("alice", "decimals"))
            if visible[-1]:
                shutil.rmtree(tmp_path / "got", ignore_errors=True)
                assert verify(pull("alice/decimals@1.0.0", str(mirror), tmp_path / "got").folder) == []
        receipt = push(adapter, "alice/decimals", to=str(mirror))
        assert receipt.reference == "alice/decimals@1.0.0"
        report = DirectoryStore(mirror).fsck()
        assert (report.problems, report.unfinished) == ((), 0)
        assert DirectoryStore(mirror).head("alice", "decimals") == receipt.commit
        assert (
            (mirror / "repos/models/alice--decimals/refs/heads/main").read_text().startswith(receipt.commit)
        )
    assert steps > 40
    # It appears once, and stays.
    assert visible == sorted(visible) and True in visible and False in visible


@pytest.mark.parametrize("start", ["nothing there", "a damaged copy there"])
def test_a_pull_that_dies_leaves_no_adapter_or_a_whole_one(tmp_path: Path, adapter: Path, start: str) -> None:
    mirror, home = tmp_path / "mirror", Path(os.environ["EDGELORA_HOME"])
    push(adapter, "alice/decimals", to=str(mirror))
    folder = home / "adapters/alice/decimals/1.0.0"
    steps = 0

    def restore() -> None:
        shutil.rmtree(home, ignore_errors=True)
        if start == "a damaged copy there":
            pull("alice/decimals", str(mirror))
            (folder / "README.md").write_text("changed")

    for _step in die_at_every_step(lambda: pull("alice/decimals", str(mirror)), restore):
        steps += 1
        if folder.exists() and (folder / "README.md").read_text() != "changed":
            assert verify(folder) == []
        assert all(found.problem is None for found in list_adapters())
        again = pull("alice/decimals", str(mirror))
        assert verify(again.folder) == []
        assert sorted(os.listdir(folder.parent)) == ["1.0.0"], "the staging folder is gone"
    assert steps > 30


def test_a_removal_that_dies_leaves_the_version_or_takes_it(tmp_path: Path, adapter: Path) -> None:
    mirror, template = tmp_path / "mirror", tmp_path / "template"
    push(write_adapter(tmp_path / "older", version="0.9.0"), "alice/decimals", to=str(template))
    push(adapter, "alice/decimals", to=str(template))

    def restore() -> None:
        shutil.rmtree(mirror, ignore_errors=True)
        shutil.copytree(template, mirror)

    for _step in die_at_every_step(lambda: remove("alice/decimals@1.0.0", str(mirror)), restore):
        store = DirectoryStore(mirror)
        assert store.versions("alice", "decimals") in (["0.9.0"], ["0.9.0", "1.0.0"])
        push(adapter, "alice/decimals", to=str(mirror))
        assert store.fsck().problems == ()
        assert store.versions("alice", "decimals") == ["0.9.0", "1.0.0"]
