"""Adapters to adopt come from one commit of one endpoint, whole, within limits, and leave nothing behind."""

from __future__ import annotations

import hashlib
import threading

import pytest
from loopback_hub import LoopbackHub, Repo

from edgelora.engine.adopting import adopt, locate_source
from edgelora.errors import (
    AdapterNotFound,
    DigestMismatch,
    DiskFull,
    MissingFile,
    NotAdoptable,
    ReferenceFormError,
    ReplyRefused,
    StoreError,
    StoreUnreachable,
    UnsafeFile,
)
from edgelora.store.hub_repository import HubRepository, TreeFile

WEIGHTS = "adapter_model.safetensors"
NAME = "Ana/Sensors-LoRA"
FILES = {"adapter_config.json": b"{}", WEIGHTS: b"weights" * 2000, "README.md": b"# Sensors"}


def offer(hub, files, name=NAME):
    """Make it the newest commit."""
    return hub.repos.setdefault(name, Repo(private=False)).commit("main", files, "a commit")


def fetched(adapter):
    """What was fetched: file name to content."""
    with locate_source(adapter) as folder:
        return {path.name: path.read_bytes() for path in folder.iterdir()}


def asked(hub, name):
    return len(hub.asked("GET", f"/{name}"))


def left(home):
    """What lies where adapters are fetched to."""
    return [path for path in (home / "cache" / "adopting").rglob("*") if path.is_file()]


def test_a_repository_is_fetched_and_its_owner_kept(small_peft, registry, tmp_path, hub):
    files = {path.name: path.read_bytes() for path in small_peft.iterdir()}
    more = {"README.md": b"---\nlicense: mit\n---\n", "training_args.bin": b"\x80\x04", "evil.py": b"1/0"}
    commit = offer(hub, files | more)
    with locate_source(f"{hub.url}#{NAME}") as folder:
        assert folder.name == commit and {path.name for path in folder.iterdir()} == {*files, "README.md"}
        manifest = adopt(folder, registry, tmp_path / "out").manifest
    assert (manifest.publisher, manifest.license, manifest.identity.name) == ("Ana", "MIT", "sensors-lora")
    assert not folder.exists()
    with pytest.raises(NotAdoptable, match="holds an adapter of edgelora already"):
        adopt(tmp_path / "out", registry, tmp_path / "again")


def test_weights_are_fetched_once_and_nothing_else_is_left_behind(hub, edgelora_home):
    commit = offer(hub, FILES)
    assert fetched(f"{hub.url}#{NAME}") == FILES
    assert fetched(f"{hub.url}#{NAME}@{commit}") == FILES
    assert asked(hub, f"{commit}/{WEIGHTS}") == 1
    assert left(edgelora_home) == []


def test_one_endpoint_says_nothing_about_the_files_of_another(hub):
    good = FILES | {WEIGHTS: b"good" * 2000, "adapter_config.json": b'{"good": 1}'}
    commit = offer(hub, good)
    with LoopbackHub() as evil:
        evil.repos[NAME] = Repo(private=False)
        evil.repos[NAME].commits[commit] = FILES
        evil.repos[NAME].branches["main"] = commit
        assert fetched(f"{evil.url}#{NAME}") == FILES, "it claims the very commit"
        assert fetched(f"{hub.url}#{NAME}") == good


def test_what_was_cached_is_hashed_again(hub, edgelora_home):
    offer(hub, FILES)
    assert fetched(f"{hub.url}#{NAME}") == FILES
    digest = hashlib.sha256(FILES[WEIGHTS]).hexdigest()
    blob = edgelora_home / "cache" / "blobs" / digest[:2] / digest
    blob.chmod(0o644)
    blob.write_bytes(FILES[WEIGHTS][:-1] + b"X")
    assert fetched(f"{hub.url}#{NAME}") == FILES


@pytest.mark.parametrize("tag", ["v1", "1.0.0", "release"])
def test_a_tag_that_moves_between_two_tries_mixes_nothing(tag, hub):
    old, new = FILES, FILES | {"adapter_config.json": b'{"v": 2}', WEIGHTS: b"newer" * 2000}
    repo = hub.repos.setdefault(NAME, Repo(private=False))
    repo.tags[tag] = repo.commit("main", old, "old")
    hub.faults.only, hub.faults.cut_after = WEIGHTS, 0
    with pytest.raises(StoreUnreachable):
        fetched(f"{hub.url}#{NAME}@{tag}")
    hub.faults.cut_after = None
    repo.tags[tag] = repo.commit("main", new, "new")
    assert fetched(f"{hub.url}#{NAME}@{tag}") == new


def test_a_branch_that_moves_while_it_is_fetched_mixes_nothing(hub):
    offer(hub, FILES)
    newer = {path: data[::-1] for path, data in FILES.items()}

    def moves():
        offer(hub, newer)
        return False

    hub.faults.drops = moves
    assert fetched(f"{hub.url}#{NAME}") == FILES


@pytest.mark.parametrize("commit", ["v1", "../../../other", "a" * 39, "A" * 40, ""])
def test_a_commit_that_is_none_is_refused(commit, hub):
    repo = hub.repos.setdefault(NAME, Repo(private=False))
    repo.commits[commit] = FILES
    repo.branches["main"] = commit
    with pytest.raises(ReplyRefused, match="names no commit"):
        fetched(f"{hub.url}#{NAME}")


def test_a_fetch_that_was_cut_goes_on_where_it_stopped(hub, edgelora_home):
    offer(hub, FILES)
    hub.faults.only, hub.faults.cut_after, hub.faults.cuts_left = WEIGHTS, 5000, 1
    hub.faults.on_cut = lambda: hub.faults.statuses.extend([503] * 4)
    with pytest.raises(StoreUnreachable):
        fetched(f"{hub.url}#{NAME}")
    assert [path.stat().st_size for path in left(edgelora_home) if path.suffix == ".part"] == [5000]
    before = hub.sent_bytes
    assert fetched(f"{hub.url}#{NAME}") == FILES
    short = sum(len(data) for name, data in FILES.items() if name != WEIGHTS)
    assert hub.sent_bytes - before == len(FILES[WEIGHTS]) - 5000 + short


def test_bytes_that_are_not_those_announced_are_not_kept(hub, edgelora_home):
    offer(hub, FILES)
    hub.faults.flips = WEIGHTS
    with pytest.raises(DigestMismatch):
        fetched(f"{hub.url}#{NAME}")
    assert left(edgelora_home) == []


def announced(monkeypatch, **sizes):
    """Let the endpoint announce other sizes than it holds; a file that is listed need not be there."""
    listed = HubRepository.tree

    def tree(self, commit):
        known = listed(self, commit)
        changed = {path.replace("_dot_", "."): TreeFile(*size) for path, size in sizes.items()}
        return known | changed

    monkeypatch.setattr(HubRepository, "tree", tree)


@pytest.mark.parametrize(
    ("path", "size"),
    [
        ("NOTICE", 2**50),
        ("LICENSE", 2**20 + 1),
        ("README_dot_md", 2**20 + 1),
        ("adapter_config_dot_json", 2**23),
    ],
)
@pytest.mark.parametrize("digest", [None, "a" * 64])
def test_a_file_announced_without_measure_is_refused_before_anything_is_fetched(
    path, size, digest, hub, monkeypatch, edgelora_home
):
    offer(hub, FILES)
    announced(monkeypatch, **{path: (size, digest)})
    with pytest.raises(NotAdoptable, match=f"is announced with {size} bytes, and"):
        fetched(f"{hub.url}#{NAME}")
    assert asked(hub, "") == len(hub.asked("GET", "/api/")), "no file was asked for"
    assert left(edgelora_home) == []


def test_weights_without_a_listed_digest_are_short_or_refused(hub, monkeypatch):
    offer(hub, FILES | {WEIGHTS: b"short"})
    assert fetched(f"{hub.url}#{NAME}")[WEIGHTS] == b"short"
    announced(monkeypatch, adapter_model_dot_safetensors=(2**24 + 1, None))
    with pytest.raises(NotAdoptable, match="is announced with 16777217 bytes"):
        fetched(f"{hub.url}#{NAME}")


def test_weights_for_which_there_is_no_space_are_not_begun(hub, monkeypatch, edgelora_home):
    offer(hub, FILES)
    announced(monkeypatch, adapter_model_dot_safetensors=(2**33, "a" * 64))
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 2**30}))
    with pytest.raises(DiskFull, match="and 1073741824 are free"):
        fetched(f"{hub.url}#{NAME}")
    assert [path for path in left(edgelora_home) if path.stat().st_size] == []


def test_two_who_want_the_same_wait_for_each_other(hub):
    offer(hub, FILES)
    found = []
    with locate_source(f"{hub.url}#{NAME}") as folder:
        other = threading.Thread(target=lambda: found.append(fetched(f"{hub.url}#{NAME}")))
        other.start()
        other.join(0.2)
        assert found == [] and {path.name: path.read_bytes() for path in folder.iterdir()} == FILES
    other.join(30)
    assert found == [FILES]


def test_a_repository_with_pickled_weights_is_not_fetched(hub):
    offer(hub, {"adapter_config.json": b"{}", "adapter_model.bin": b"\x80"})
    with pytest.raises(UnsafeFile, match="holds its weights as a pickle"):
        fetched(f"{hub.url}#{NAME}")


def test_a_revision_that_is_not_there_is_named(hub):
    offer(hub, FILES)
    for revision in ("other", "f" * 40):
        with pytest.raises(AdapterNotFound, match="holds no adapter of PEFT's"):
            fetched(f"{hub.url}#{NAME}@{revision}")


def test_what_is_nowhere_is_named_with_the_way_to_fetch_it(tmp_path):
    with pytest.raises(MissingFile, match="nor in the Hub's cache") as caught:
        fetched("ana/nowhere")
    assert "edgelora adopt hf://ana/nowhere" in caught.value.fix
    for text in ("no such folder", "~nobody-of-this-name/x"):
        with pytest.raises(ReferenceFormError):
            fetched(text)
    with pytest.raises(StoreError, match="holds adapters of edgelora only"):
        fetched(f"{tmp_path.as_uri()}#ana/x")
