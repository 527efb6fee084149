"""Push and pull between folders and a real directory mirror."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import pytest
from adapter_folders import write_adapter

from edgelora.errors import (
    AdapterNotFound,
    DigestMismatch,
    DiskFull,
    MissingFile,
    ReferenceFormError,
    TargetExists,
    VersionExists,
)
from edgelora.locations import home
from edgelora.manifest import read_manifest
from edgelora.transfer import (
    address_named,
    find_manifest,
    list_adapters,
    list_published,
    locate_adapter,
    pull,
    push,
    remove,
    resolve_adapter,
    search,
)
from edgelora.verify import verify


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    return write_adapter(tmp_path / "adapter", rows=2048, extra={"deep/notes.txt": b"notes"})


def content(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }


def test_what_is_pulled_is_what_was_pushed(adapter: Path) -> None:
    receipt = push(adapter, "alice/decimals")
    assert (receipt.reference, receipt.files, receipt.reused) == ("alice/decimals@1.0.0", 5, False)
    assert receipt.bytes == sum(map(len, content(adapter).values()))
    pulled = pull("alice/decimals")
    assert pulled.folder == home() / "adapters/alice/decimals/1.0.0"
    assert content(pulled.folder) == content(adapter)
    assert not pulled.reused and pulled.manifest == read_manifest(adapter)


def test_members_of_a_later_specification_survive_a_release_under_another_name(adapter: Path) -> None:
    document = json.loads((adapter / "edgelora.json").read_text())
    document |= {"specVersion": "1.7", "novelty": {"deep": [1, None]}}
    document["components"][0]["novelty"] = "x"
    (adapter / "edgelora.json").write_text(json.dumps(document))
    push(adapter, "bob/renamed@2.0.0")
    published = json.loads((pull("bob/renamed").folder / "edgelora.json").read_text())
    assert (published["identity"]["name"], published["specVersion"]) == ("renamed", "1.7")
    assert published["novelty"] == document["novelty"]
    assert published["components"][0]["novelty"] == "x"


def test_pushing_or_pulling_the_same_again_changes_nothing(adapter: Path) -> None:
    first = push(adapter, "alice/decimals")
    again = push(adapter, "alice/decimals@1.0.0")
    assert again.reused and again.reused_bytes == again.bytes and again.commit == first.commit
    pull("alice/decimals")
    repeated = pull("alice/decimals")
    assert repeated.reused and repeated.fetched_bytes == 0


def test_a_push_under_another_name_gives_the_published_copy_that_identity(adapter: Path) -> None:
    before = content(adapter)
    push(adapter, "factory/line-7@2.0.0")
    assert content(adapter) == before
    identity = pull("factory/line-7").manifest.identity
    assert (identity.namespace, identity.name, identity.version) == ("factory", "line-7", "2.0.0")
    assert identity.created_at > "2026-11-22T08:00:00Z"
    assert push(adapter, "factory/line-7@2.0.0").reused


def test_other_content_under_a_published_version_is_refused_with_the_next_one(
    tmp_path: Path, adapter: Path
) -> None:
    push(adapter, "alice/decimals")
    with pytest.raises(VersionExists) as caught:
        push(write_adapter(tmp_path / "other", seed=5), "alice/decimals")
    assert caught.value.fix == "publish it as alice/decimals@1.0.1"


def test_a_damaged_folder_is_not_pushed(adapter: Path) -> None:
    (adapter / "README.md").write_text("changed")
    with pytest.raises(DigestMismatch, match=r"README\.md"):
        push(adapter, "alice/decimals")
    assert not (home() / "mirror").exists()


@pytest.mark.parametrize(
    ("reference", "to", "problem"),
    [
        ("alice/decimals@main", None, "not a semantic version"),
        ("alice/decimals@sha256:" + "0" * 64, None, "names a digest"),
        ("local:alice/decimals", "other", "names the store local, and the option names other"),
    ],
)
def test_references_that_cannot_be_pushed_to_are_refused(
    adapter: Path, reference: str, to: str | None, problem: str
) -> None:
    with pytest.raises(ReferenceFormError, match=problem) as caught:
        push(adapter, reference, to)
    assert caught.value.fix


def test_a_pull_goes_on_where_the_last_one_stopped(adapter: Path) -> None:
    push(adapter, "alice/decimals")
    staging = home() / "adapters/alice/decimals/.1.0.0.pulling"
    sizes = {entry.path: entry for entry in read_manifest(adapter).files}
    weights = sizes["adapter_model.safetensors"]
    (staging / "parts").mkdir(parents=True)
    (staging / "adapter").mkdir()
    shutil.copy(adapter / "README.md", staging / "adapter")
    part = (adapter / weights.path).read_bytes()[:100_001]
    (staging / "parts" / f"{weights.sha256}.part").write_bytes(part)
    pulled = pull("alice/decimals")
    total = sum(entry.size for entry in sizes.values())
    assert pulled.fetched_bytes == total - 100_001 - sizes["README.md"].size
    assert content(pulled.folder) == content(adapter)
    assert os.listdir(staging.parent) == ["1.0.0"]


def test_damaged_leftovers_of_a_pull_are_fetched_again(adapter: Path, tmp_path: Path) -> None:
    push(adapter, "alice/decimals")
    staging = home() / "adapters/alice/decimals/.1.0.0.pulling"
    entry = next(entry for entry in read_manifest(adapter).files if entry.path.endswith(".safetensors"))
    (staging / "parts").mkdir(parents=True)
    (staging / "adapter/empty/folder").mkdir(parents=True)
    (staging / "adapter/README.md").write_text("damaged")
    (staging / "adapter/unlisted.txt").write_text("x")
    (staging / "adapter/link").symlink_to(tmp_path)
    (staging / "parts" / f"{entry.sha256}.part").write_bytes(b"damaged")
    victim = tmp_path / "victim"
    victim.write_bytes((adapter / "deep/notes.txt").read_bytes())
    (staging / "adapter/deep").mkdir()
    os.link(victim, staging / "adapter/deep/notes.txt")
    pulled = pull("alice/decimals")
    assert content(pulled.folder) == content(adapter)
    assert not (pulled.folder / "empty").exists()
    assert (pulled.folder / "deep/notes.txt").stat().st_nlink == 1


def test_a_damaged_copy_on_the_shelf_is_replaced(adapter: Path) -> None:
    push(adapter, "alice/decimals")
    folder = pull("alice/decimals").folder
    (folder / "README.md").write_text("changed")
    assert not pull("alice/decimals").reused
    assert content(folder) == content(adapter)


def test_a_folder_that_was_not_pulled_or_was_repacked_since_is_never_replaced(
    tmp_path: Path, adapter: Path
) -> None:
    push(adapter, "alice/decimals")
    mine = write_adapter(tmp_path / "mine", seed=7)
    (tmp_path / "file").write_text("x")
    (tmp_path / "link").symlink_to(tmp_path / "mine")
    kept = content(mine)
    for into in (mine, tmp_path / "file", tmp_path / "link"):
        with pytest.raises(TargetExists) as caught:
            pull("alice/decimals", into=into)
        assert "--into" in caught.value.fix
    assert content(mine) == kept
    pull("alice/decimals", into=tmp_path / "got")
    write_adapter(tmp_path / "got", seed=8)
    with pytest.raises(TargetExists, match="was changed since"):
        pull("alice/decimals", into=tmp_path / "got")


def test_files_a_user_added_to_a_pulled_folder_are_never_deleted(tmp_path: Path, adapter: Path) -> None:
    push(adapter, "alice/decimals")
    push(write_adapter(tmp_path / "next", seed=1), "alice/decimals@1.1.0")
    for into in (tmp_path / "got", None):
        folder = pull("alice/decimals@1.0.0", into=into).folder
        (folder / "sub").mkdir()
        (folder / "sub/note.txt").write_text("mine")
        for version in ("1.0.0", "1.1.0") if into else ("1.0.0",):
            with pytest.raises(TargetExists, match=r"holds sub/note\.txt, which was not pulled") as caught:
                pull(f"alice/decimals@{version}", into=into)
            assert "--into" in caught.value.fix
        assert (folder / "sub/note.txt").read_text() == "mine"


def test_a_pulled_folder_is_replaced_by_another_version(tmp_path: Path, adapter: Path) -> None:
    push(adapter, "alice/decimals")
    push(write_adapter(tmp_path / "next", seed=1), "alice/decimals@1.1.0")
    pull("alice/decimals@1.0.0", into=tmp_path / "got")
    assert not pull("alice/decimals", into=tmp_path / "got").reused
    assert read_manifest(tmp_path / "got").identity.version == "1.1.0"
    assert verify(tmp_path / "got") == []
    (tmp_path / "empty").mkdir()
    assert pull("alice/decimals", into=tmp_path / "empty").folder == tmp_path / "empty"


def test_a_pull_that_cannot_fit_says_so_before_it_fetches(
    adapter: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    push(adapter, "alice/decimals")
    usage = namedtuple("usage", "total used free")
    with (
        monkeypatch.context() as patch,
        pytest.raises(DiskFull, match=r"needs \d+ bytes, and 0 are") as caught,
    ):
        patch.setattr(shutil, "disk_usage", lambda path: usage(10, 10, 0))
        pull("alice/decimals")
    assert "--into" in caught.value.fix
    assert not pull("alice/decimals").reused


def test_lists_and_searches_read_the_manifests(tmp_path: Path, adapter: Path) -> None:
    push(adapter, "alice/decimals")
    qlora = write_adapter(
        tmp_path / "q",
        name="bob/sensors",
        derivative="qlora",
        base="acme/Tiny-7B",
        languages=("en-GB",),
        license="MIT OR Apache-2.0",
    )
    push(qlora, "bob/sensors")
    push(qlora, "bob/sensors@1.1.0-rc.1")
    found = {listing.reference: listing for listing in list_published()}
    assert found.keys() == {"alice/decimals@1.0.0", "bob/sensors@1.0.0"}
    assert found["bob/sensors@1.0.0"].versions == ("1.0.0", "1.1.0-rc.1")

    def names(*text: str, **filters: str) -> list[str]:
        return [listing.reference.split("/")[0] for listing in search(*text, **filters)]  # type: ignore[arg-type]

    assert names("QLoRA tiny") == ["bob"] and names("lora") == ["alice", "bob"] and names("nothing") == []
    assert names(derivative="lora") == ["alice"] and names(base="tiny") == ["bob"]
    assert names(language="en") == ["alice", "bob"] and names(language="en-gb") == ["bob"]
    assert names(license="mit") == ["bob"] and names(license="apache") == []
    assert list_adapters() == []
    pull("bob/sensors", into=tmp_path / "here")
    assert [(listing.reference, listing.place) for listing in list_adapters()] == [
        ("bob/sensors@1.0.0", str(tmp_path / "here"))
    ]


def test_removing_takes_a_pulled_adapter_or_a_published_version(adapter: Path) -> None:
    push(adapter, "alice/decimals")
    push(adapter, "alice/decimals@1.1.0")
    pull("alice/decimals@1.0.0")
    pull("alice/decimals@1.1.0")
    with pytest.raises(ReferenceFormError, match="was pulled in 2 versions") as caught:
        remove("alice/decimals")
    assert "alice/decimals@1.1.0" in caught.value.fix
    remove("alice/decimals@1.0.0")
    assert remove("alice/decimals").reference == "alice/decimals@1.1.0"
    assert list_adapters() == []
    with pytest.raises(AdapterNotFound, match="was not pulled to this machine"):
        remove("alice/decimals")
    into = home() / "elsewhere"
    pull("alice/decimals", into=into)
    with pytest.raises(AdapterNotFound, match="was pulled into a folder of your own") as own:
        remove("alice/decimals")
    assert own.value.fix.endswith(f"rm -r {into}")
    assert remove("local:alice/decimals@1.1.0").place == (home() / "mirror").as_uri()
    assert list_published()[0].versions == ("1.0.0",)


def test_an_option_and_a_reference_that_name_two_stores_are_refused(adapter: Path, tmp_path: Path) -> None:
    push(adapter, "alice/decimals")
    for act in (remove, find_manifest, address_named):
        with pytest.raises(ReferenceFormError, match="names the store local, and the option names"):
            act("local:alice/decimals@1.0.0", str(tmp_path / "usb"))
    assert address_named("alice/decimals") is None
    assert address_named("local:alice/decimals") == (home() / "mirror").as_uri()
    assert find_manifest("local:alice/decimals", "local") == find_manifest("alice/decimals")


def test_an_adapter_is_found_as_a_folder_as_pulled_or_by_pulling_it(adapter: Path, tmp_path: Path) -> None:
    push(adapter, "alice/decimals")
    assert resolve_adapter(adapter) == resolve_adapter(str(adapter)) == adapter
    pulled = resolve_adapter("alice/decimals")
    assert pulled == home() / "adapters/alice/decimals/1.0.0"
    assert (
        find_manifest("alice/decimals")
        == find_manifest(str(adapter))
        == find_manifest("local:alice/decimals")
    )
    shutil.rmtree(home() / "mirror")
    assert resolve_adapter("alice/decimals@1.0.0") == pulled
    (pulled / "README.md").write_text("changed")
    assert locate_adapter("alice/decimals") == pulled
    with pytest.raises(DigestMismatch, match="README"):
        resolve_adapter("alice/decimals")
    with pytest.raises(MissingFile, match="there is no adapter folder"):
        resolve_adapter(tmp_path / "none")


def test_moving_adapters_needs_no_heavy_library(adapter: Path) -> None:
    program = f"""
import sys
import pathlib
from edgelora.transfer import push, pull, list_published
push(pathlib.Path({str(adapter)!r}), 'alice/decimals')
pull('alice/decimals'); list_published()
heavy = {{'torch', 'numpy', 'transformers', 'peft', 'huggingface_hub'}} & set(sys.modules)
sys.exit(str(heavy) if heavy else 0)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_without_a_version_a_new_folder_gets_the_next_one(tmp_path: Path) -> None:
    first, second = (
        write_adapter(tmp_path / name, name="local/pumps", version="0.1.0", seed=seed)
        for seed, name in enumerate(("first", "second"))
    )
    assert push(first, "acme/pumps").reference == "acme/pumps@0.1.0"
    push(write_adapter(tmp_path / "third", name="local/pumps", seed=2), "acme/pumps@2.0.0")
    receipt = push(second, "acme/pumps")
    assert (receipt.reference, receipt.reused) == ("acme/pumps@2.0.1", False)
    # The same again is the same version; and the number of a removed one is never used again.
    again = push(second, "acme/pumps")
    assert (again.reference, again.reused) == ("acme/pumps@2.0.1", True)
    remove("local:acme/pumps@2.0.1")
    assert push(first, "acme/pumps").reference == "acme/pumps@2.0.2"


def test_a_store_without_a_name_is_refused(adapter: Path) -> None:
    with pytest.raises(ReferenceFormError, match="the name of the store is empty"):
        push(adapter, "acme/pumps", to="")
