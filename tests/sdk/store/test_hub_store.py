"""A remote store against a real hub on loopback, written with huggingface_hub's own client."""

from __future__ import annotations

import hashlib
import json
import os
import resource
from pathlib import Path

import pytest
from adapter_folders import write_adapter
from loopback_hub import LoopbackHub, Repo
from signers import ed25519, policy

from edgelora.errors import (
    AdapterNotFound,
    DigestMismatch,
    FileSetMismatch,
    PublishRaced,
    ReferenceFormError,
    ReplyRefused,
    StoreError,
    StoreUnreachable,
    VersionExists,
    Yanked,
)
from edgelora.locations import cache_dir
from edgelora.manifest import MANIFEST_NAME
from edgelora.signing import sign
from edgelora.store import open_store, parse_reference
from edgelora.transfer import list_published, pull, push, remove, search, unyank, yank
from edgelora.verify import verify


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    return write_adapter(
        tmp_path / "adapter", rows=512, extra={"README.md": CARD, "deep/notes.txt": b"notes"}
    )


CARD = b"---\ntags:\n- edgelora\n---\n# decimals\n"


def content(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }


def test_what_is_pulled_from_a_hub_is_what_was_pushed(hub: LoopbackHub, adapter: Path) -> None:
    receipt = push(adapter, "alice/decimals", to=hub.url)
    assert (receipt.reference, receipt.files, receipt.reused) == ("alice/decimals@1.0.0", 5, False)
    pulled = pull(f"{hub.url}#alice/decimals")
    assert content(pulled.folder) == content(adapter)
    assert pulled.reference == f"{hub.url}#alice/decimals@1.0.0"
    assert verify(pulled.folder) == []


def test_a_version_is_one_commit_on_the_named_parent_and_a_tag(hub: LoopbackHub, adapter: Path) -> None:
    receipt = push(adapter, "alice/decimals", to=hub.url)
    repo = hub.repos["alice/decimals"]
    assert len(hub.asked("POST", "/commit/")) == 1
    assert repo.tags == {"1.0.0": receipt.commit} and repo.branches == {"main": receipt.commit}
    assert repo.private
    first = repo.parents[receipt.commit]
    assert first and set(repo.commits[first]) == {".gitattributes"}
    assert set(repo.commits[receipt.commit]) == {".gitattributes", *content(adapter)}


def test_a_push_of_many_files_needs_no_descriptor_for_each(hub: LoopbackHub, tmp_path: Path) -> None:
    names = {f"d/f{number}.txt": b"%d" % number for number in range(200)}
    folder = write_adapter(tmp_path / "many", extra=names)
    allowed, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + 100, most))
    try:
        push(folder, "alice/decimals", to=hub.url)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, most))
    assert content(pull("alice/decimals", hub.url).folder) == content(folder)
    assert [path.name for path in cache_dir().iterdir() if path.is_file()] == []


def test_a_repository_is_public_only_if_asked_for(hub: LoopbackHub, adapter: Path) -> None:
    push(adapter, "alice/decimals", to=hub.url, public=True)
    assert not hub.repos["alice/decimals"].private


def test_a_next_version_leaves_nothing_of_the_last_one_behind(
    hub: LoopbackHub, adapter: Path, tmp_path: Path
) -> None:
    push(adapter, "alice/decimals", to=hub.url)
    newer = write_adapter(tmp_path / "newer", version="1.1.0", seed=2)
    receipt = push(newer, "alice/decimals", to=hub.url)
    repo = hub.repos["alice/decimals"]
    assert "deep/notes.txt" not in repo.commits[receipt.commit]
    assert repo.parents[receipt.commit] == repo.tags["1.0.0"]
    assert content(pull("alice/decimals@1.0.0", hub.url, tmp_path / "old").folder) == content(adapter)
    pulled = pull("alice/decimals", hub.url)
    assert pulled.manifest.identity.version == "1.1.0" and pulled.manifest.identity.release_sequence == 2


def test_pushing_the_same_again_changes_nothing_and_other_content_is_refused(
    hub: LoopbackHub, adapter: Path, tmp_path: Path
) -> None:
    first = push(adapter, "alice/decimals", to=hub.url)
    again = push(adapter, "alice/decimals", to=hub.url)
    assert again.reused and again.commit == first.commit
    with pytest.raises(VersionExists) as caught:
        push(write_adapter(tmp_path / "other", seed=5), "alice/decimals", to=hub.url)
    assert caught.value.fix == "publish it as alice/decimals@1.0.1"


def test_a_stale_parent_is_refused_by_the_hub_and_the_push_made_anew(
    hub: LoopbackHub, adapter: Path, tmp_path: Path
) -> None:
    push(adapter, "alice/decimals", to=hub.url)
    newer = write_adapter(tmp_path / "newer", version="1.1.0", seed=2)

    def be_faster() -> None:
        hub.before_commit = lambda: None
        repo = hub.repos["alice/decimals"]
        repo.commit("main", {**repo.commits[repo.branches["main"]], "README.md": b"edited"}, "edited by hand")

    hub.before_commit = be_faster
    receipt = push(newer, "alice/decimals", to=hub.url)
    assert len(hub.asked("POST", "/commit/main")) == 1 + 2
    assert content(pull("alice/decimals@1.1.0", hub.url).folder)["README.md"] == content(newer)["README.md"]
    assert hub.repos["alice/decimals"].tags["1.1.0"] == receipt.commit


def test_a_crash_between_commit_and_tag_is_put_right_by_the_next_push(
    hub: LoopbackHub, adapter: Path
) -> None:
    push(adapter, "alice/decimals", to=hub.url)
    del hub.repos["alice/decimals"].tags["1.0.0"]
    with pytest.raises(AdapterNotFound):
        pull("alice/decimals", hub.url)
    push(adapter, "alice/decimals", to=hub.url)
    assert verify(pull("alice/decimals", hub.url).folder) == []


def test_a_branch_a_commit_and_a_digest_can_be_named(hub: LoopbackHub, adapter: Path) -> None:
    receipt = push(adapter, "alice/decimals", to=hub.url)
    store = open_store(hub.url)
    for at in ("main", receipt.commit, receipt.manifest_digest):
        snapshot = store.resolve(parse_reference(f"alice/decimals@{at}"))
        assert (snapshot.reference.version, snapshot.commit) == ("1.0.0", receipt.commit)
        assert f"sha256:{hashlib.sha256(store.read_manifest(snapshot.reference)).hexdigest()}" == (
            receipt.manifest_digest
        )


def test_what_is_not_there_is_said_with_what_there_is(hub: LoopbackHub, adapter: Path) -> None:
    push(adapter, "alice/decimals", to=hub.url)
    with pytest.raises(AdapterNotFound) as caught:
        pull("alice/decimal", hub.url)
    assert caught.value.fix == "did you mean alice/decimals?"
    with pytest.raises(AdapterNotFound) as caught:
        pull("alice/decimals@2.0.0", hub.url)
    assert caught.value.fix == "choose from 1.0.0"


def test_a_repository_without_a_manifest_is_not_an_adapter_of_ours(hub: LoopbackHub, adapter: Path) -> None:
    push(adapter, "alice/decimals", to=hub.url)
    repo = hub.repos["alice/decimals"]
    repo.tags["2.0.0"] = repo.commit("main", {"adapter_config.json": b"{}"}, "by hand")
    with pytest.raises(AdapterNotFound, match=r"but no edgelora\.json in it") as caught:
        pull("alice/decimals", hub.url)
    assert "edgelora adopt" in caught.value.fix


def test_listing_and_searching_read_pages_and_the_manifests(
    hub: LoopbackHub, tmp_path: Path, adapter: Path
) -> None:
    push(adapter, "alice/decimals", to=hub.url)
    push(adapter, "bob/line-7@2.0.0", to=hub.url)
    for number in range(60):
        hub.repos[f"carol/empty-{number}"] = Repo(private=False)
        hub.repos[f"carol/empty-{number}"].commit("main", {"README.md": CARD}, "a card, no version")
    hub.repos["Upper/Case"] = hub.repos["bob/line-7"]
    listed = list_published(hub.url)
    assert [each.reference for each in listed] == ["alice/decimals@1.0.0", "bob/line-7@2.0.0"]
    assert listed[0].languages == ("en", "id") and listed[0].problem is None
    assert [each.reference for each in search("line", hub.url)] == ["bob/line-7@2.0.0"]
    assert len(hub.asked("GET", "cursor=50")) >= 1


def test_a_removed_version_is_gone_its_number_stays_taken_and_it_may_come_back(
    hub: LoopbackHub, adapter: Path, tmp_path: Path
) -> None:
    push(adapter, "alice/decimals", to=hub.url)
    assert remove("alice/decimals@1.0.0", hub.url).reference == "alice/decimals@1.0.0"
    assert open_store(hub.url).versions("alice", "decimals") == []
    main = hub.repos["alice/decimals"].branches["main"]
    assert not any(path.startswith("removed/") for path in hub.repos["alice/decimals"].commits[main])
    with pytest.raises(VersionExists, match="also when it was removed"):
        push(write_adapter(tmp_path / "other", seed=5), "alice/decimals", to=hub.url)
    newer = push(write_adapter(tmp_path / "newer", version="1.1.0", seed=2), "alice/decimals", to=hub.url)
    assert newer.reference == "alice/decimals@1.1.0"
    assert pull("alice/decimals", hub.url).manifest.identity.release_sequence == 2
    push(adapter, "alice/decimals@1.0.0", to=hub.url)
    assert content(pull("alice/decimals@1.0.0", hub.url).folder) == content(adapter)


def test_a_yanked_version_is_passed_over_and_refused_with_its_reason(
    hub: LoopbackHub, adapter: Path, tmp_path: Path
) -> None:
    push(adapter, "alice/decimals", to=hub.url)
    push(write_adapter(tmp_path / "newer", version="1.1.0", seed=2), "alice/decimals", to=hub.url)
    tags = dict(hub.repos["alice/decimals"].tags)
    yank("alice/decimals@1.1.0", "wrong units", hub.url)
    assert pull("alice/decimals", hub.url).manifest.identity.version == "1.0.0"
    with pytest.raises(Yanked, match="wrong units"):
        pull("alice/decimals@1.1.0", hub.url)
    assert pull("alice/decimals@1.1.0", hub.url, allow_yanked=True).yanked == "wrong units"
    unyank("alice/decimals@1.1.0", hub.url)
    assert pull("alice/decimals", hub.url).manifest.identity.version == "1.1.0"
    assert hub.repos["alice/decimals"].tags == tags


def test_a_damaged_yank_record_still_withdraws_its_version(hub: LoopbackHub, adapter: Path) -> None:
    push(adapter, "alice/decimals", to=hub.url)
    yank("alice/decimals@1.0.0", "wrong units", hub.url)
    repo = hub.repos["alice/decimals"]
    repo.commit("edgelora-records", {"yanked/1.0.0.json": b"{}"}, "by hand")
    with pytest.raises(Yanked, match="reason is lost"):
        pull("alice/decimals@1.0.0", hub.url)


def test_a_file_added_to_a_tagged_commit_is_refused(hub: LoopbackHub, adapter: Path) -> None:
    receipt = push(adapter, "alice/decimals", to=hub.url)
    hub.repos["alice/decimals"].commits[receipt.commit]["extra.py"] = b"print()"
    with pytest.raises(FileSetMismatch, match=r"disagree about extra\.py"):
        pull("alice/decimals", hub.url)


def test_a_file_missing_from_a_tagged_commit_is_refused(hub: LoopbackHub, adapter: Path) -> None:
    receipt = push(adapter, "alice/decimals", to=hub.url)
    del hub.repos["alice/decimals"].commits[receipt.commit]["README.md"]
    with pytest.raises(FileSetMismatch, match=r"disagree about README\.md"):
        pull("alice/decimals", hub.url)


def test_a_file_of_another_size_or_digest_than_listed_is_refused_before_it_is_fetched(
    hub: LoopbackHub, adapter: Path
) -> None:
    receipt = push(adapter, "alice/decimals", to=hub.url)
    files = hub.repos["alice/decimals"].commits[receipt.commit]
    weights = files["adapter_model.safetensors"]
    files["adapter_model.safetensors"] = weights[:-1] + b"x"
    with pytest.raises(DigestMismatch, match="another adapter_model"):
        pull("alice/decimals", hub.url)
    files["adapter_model.safetensors"], files["README.md"] = weights, b"shorter"
    with pytest.raises(DigestMismatch, match="another README"):
        pull("alice/decimals", hub.url)
    assert hub.asked("GET", "/resolve/")[-1].path.endswith(MANIFEST_NAME)


def test_stock_clients_read_what_was_pushed(hub: LoopbackHub, adapter: Path, tmp_path: Path) -> None:
    from huggingface_hub import hf_hub_download, snapshot_download

    push(adapter, "alice/decimals", to=hub.url)
    options = {"endpoint": hub.url, "token": False, "cache_dir": tmp_path / "hf"}
    folder = snapshot_download("alice/decimals", revision="1.0.0", **options)
    assert {k: v for k, v in content(Path(folder)).items() if k != ".gitattributes"} == content(adapter)
    manifest = hf_hub_download("alice/decimals", MANIFEST_NAME, **options)
    assert json.loads(Path(manifest).read_bytes())["identity"]["version"] == "1.0.0"


def test_an_extra_root_file_such_as_a_signature_goes_along(hub: LoopbackHub, adapter: Path) -> None:
    store = open_store(hub.url)
    push(adapter, "alice/decimals", to=hub.url)
    sign(adapter, [ed25519("one")])
    signed = (adapter / "edgelora.sig.json").read_bytes()
    repo = hub.repos["alice/decimals"]
    repo.commits[repo.tags["1.0.0"]]["edgelora.sig.json"] = signed
    snapshot = store.resolve(parse_reference("alice/decimals"))
    signature = next(file for file in snapshot.files if file.path == "edgelora.sig.json")
    assert signature.sha256 == hashlib.sha256(signed).hexdigest()
    with store.open_file(snapshot, "edgelora.sig.json") as file:
        assert file.read() == signed
    pulled = pull("alice/decimals", hub.url, policy=policy(ed25519("one"))).folder
    assert (pulled / "edgelora.sig.json").read_bytes() == signed


@pytest.mark.parametrize(
    ("status", "kind", "problem"),
    [
        (401, StoreError, r"does not let this user write to alice/decimals \(401\)"),
        (403, StoreError, r"does not let this user write to alice/decimals \(403\)"),
        (400, StoreError, r"refuses the front matter of README\.md"),
        (418, ReplyRefused, "refuses the push with 418"),
        (503, StoreUnreachable, "answers 503"),
        (0, StoreUnreachable, "does not answer: RemoteProtocolError"),
    ],
)
def test_a_refused_push_says_why(
    hub: LoopbackHub, adapter: Path, status: int, kind: type[Exception], problem: str
) -> None:
    hub.repos["alice/decimals"] = Repo(private=True)
    hub.refuses_writes = status
    with pytest.raises(kind, match=problem):
        push(adapter, "alice/decimals", to=hub.url)
    assert hub.repos["alice/decimals"].tags == {}


def test_a_push_that_is_overtaken_again_and_again_gives_up(hub: LoopbackHub, adapter: Path) -> None:
    hub.repos["alice/decimals"] = repo = Repo(private=True)

    def be_faster() -> None:
        repo.commit("main", {"README.md": b"%d" % len(repo.commits)}, "edited by hand")

    hub.before_commit = be_faster
    with pytest.raises(PublishRaced, match="others publish to alice/decimals"):
        push(adapter, "alice/decimals", to=hub.url)
    assert repo.tags == {}


def test_what_the_hub_did_not_keep_is_not_published(hub: LoopbackHub, adapter: Path) -> None:
    hub.loses = "README.md"
    with pytest.raises(DigestMismatch, match="did not keep the files of alice/decimals") as caught:
        push(adapter, "alice/decimals", to=hub.url)
    assert caught.value.fix and hub.repos["alice/decimals"].tags == {}


def test_removing_and_yanking_need_a_version(hub: LoopbackHub, adapter: Path) -> None:
    push(adapter, "alice/decimals", to=hub.url)
    for change in (
        lambda: remove("alice/decimals", hub.url),
        lambda: yank("alice/decimals@main", "x", hub.url),
    ):
        with pytest.raises(ReferenceFormError, match="does not say which version") as caught:
            change()
        assert caught.value.fix == "write alice/decimals@1.0.0"


def test_a_damaged_tombstone_is_named(hub: LoopbackHub, adapter: Path) -> None:
    push(adapter, "alice/decimals", to=hub.url)
    remove("alice/decimals@1.0.0", hub.url)
    repo = hub.repos["alice/decimals"]
    repo.commit("edgelora-records", {"removed/1.0.0.json": b"{}"}, "by hand")
    with pytest.raises(DigestMismatch, match=r"removed/1\.0\.0\.json is not the record of a removed version"):
        push(adapter, "alice/decimals", to=hub.url)
