"""What a hostile endpoint may answer: each answer is refused by name, or changes nothing that is believed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from adapter_folders import write_adapter
from loopback_hub import LoopbackHub

from edgelora.errors import EdgeloraError, ReplyRefused
from edgelora.locations import home
from edgelora.store import open_store, parse_reference
from edgelora.transfer import list_published, pull, push

COMMIT = "0123456789abcdef0123456789abcdef01234567"
NOT_DOCUMENTS = [
    b"",
    b"{",
    b"<html>",
    b"\xff\xfe{}",
    b"[" * 100_000,
    b'{"a":' * 100_000,
    b"9" * 10_000,
    b"nul",
]
REFS = [
    [],
    {},
    "refs",
    None,
    {"branches": [], "tags": {}},
    {"branches": [], "tags": [1]},
    {"branches": [], "tags": [{}]},
    {"branches": [], "tags": [{"name": "1.0.0"}]},
    {"branches": [], "tags": [{"name": 1, "targetCommit": COMMIT}]},
    {"branches": [], "tags": [{"name": "1.0.0", "targetCommit": "main"}]},
    {"branches": [], "tags": [{"name": "1.0.0", "targetCommit": "../" * 13 + "a"}]},
    {"branches": [], "tags": [{"name": "1.0.0", "targetCommit": COMMIT.upper()}]},
    {"branches": [], "tags": [{"name": "1.0.0", "targetCommit": COMMIT + "\n"}]},
    {"branches": [{"name": "main", "targetCommit": None}], "tags": []},
]
TREES = [
    {},
    "tree",
    [1],
    [None],
    [{}],
    [{"type": "symlink", "path": "a", "size": 1}],
    [{"type": "file", "size": 1}],
    [{"type": "file", "path": 1, "size": 1}],
    [{"type": "file", "path": "a"}],
    [{"type": "file", "path": "a", "size": -1}],
    [{"type": "file", "path": "a", "size": "1"}],
    [{"type": "file", "path": "a", "size": 1.5}],
    [{"type": "file", "path": "a", "size": True}],
    [{"type": "file", "path": "a", "size": 1, "lfs": {"oid": "x", "size": 1}}],
    [{"type": "file", "path": "a", "size": 1, "lfs": {"oid": 5, "size": 1}}],
    [{"type": "file", "path": "a", "size": 1, "lfs": {"oid": "A" * 64, "size": 1}}],
    [{"type": "file", "path": "a", "size": 1, "lfs": {"oid": "0" * 64, "size": None}}],
]
HOSTILE_PATHS = [
    "../escape",
    "/etc/passwd",
    "a/../../b",
    "C:\\evil",
    "con",
    "a\u202eb",
    "a\x00b",
    "README.MD",
    "deep/../README.md",
    ".git/config",
    "x" * 5000,
]


@pytest.fixture
def published(hub: LoopbackHub, tmp_path: Path) -> LoopbackHub:
    push(write_adapter(tmp_path / "adapter"), "alice/decimals", to=hub.url)
    return hub


@pytest.mark.parametrize("data", NOT_DOCUMENTS, ids=lambda data: repr(data[:12]))
@pytest.mark.parametrize("part", ["/refs", "/tree/"])
def test_what_is_no_json_document_is_refused(published: LoopbackHub, part: str, data: bytes) -> None:
    published.answers[part] = data
    with pytest.raises(ReplyRefused):
        pull("alice/decimals", published.url)
    assert not (home() / "adapters").exists()


@pytest.mark.parametrize("document", REFS, ids=lambda document: json.dumps(document)[:60])
def test_refs_that_name_no_commits_are_refused(published: LoopbackHub, document: object) -> None:
    published.answers["/refs"] = json.dumps(document).encode()
    with pytest.raises(ReplyRefused, match="nothing of this reply was used"):
        pull("alice/decimals", published.url)


@pytest.mark.parametrize("document", TREES, ids=lambda document: json.dumps(document)[:60])
def test_listings_without_names_sizes_and_digests_are_refused(
    published: LoopbackHub, document: object
) -> None:
    published.answers["/tree/"] = json.dumps(document).encode()
    with pytest.raises(ReplyRefused):
        pull("alice/decimals", published.url)


@pytest.mark.parametrize("path", HOSTILE_PATHS, ids=lambda path: repr(path[:20]))
def test_no_path_of_a_listing_is_ever_written(published: LoopbackHub, path: str, tmp_path: Path) -> None:
    repo = published.repos["alice/decimals"]
    repo.commits[repo.tags["1.0.0"]][path] = b"evil"
    before = {each for each in tmp_path.rglob("*")}
    with pytest.raises(EdgeloraError) as caught:
        pull("alice/decimals", published.url, tmp_path / "into")
    assert caught.value.exit_code in (3, 5)
    assert {each for each in tmp_path.rglob("*")} == before


@pytest.mark.parametrize("document", [{}, [1], [{}], [{"id": 5}], ["a"], "x"], ids=json.dumps)
def test_lists_without_names_are_refused(published: LoopbackHub, document: object) -> None:
    published.answers["/api/models?"] = json.dumps(document).encode()
    with pytest.raises(ReplyRefused):
        list_published(published.url)


@pytest.mark.parametrize("name", ["../../etc", "Alice/X", "a/b/c", "con/nul", "alice/--x", "a b/c"])
def test_names_that_could_not_be_references_are_passed_over(published: LoopbackHub, name: str) -> None:
    published.answers["/api/models?"] = json.dumps([{"id": name}]).encode()
    assert open_store(published.url).list_adapters() == []


def test_pages_without_end_are_refused(published: LoopbackHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("loopback_hub.PAGE", -1)
    published.repos["alice/decimals"].commit("main", {"README.md": b"edgelora"}, "a card")
    with pytest.raises(ReplyRefused, match="has more than 100 pages"):
        list_published(published.url)


def test_a_document_longer_than_allowed_is_not_read_to_its_end(published: LoopbackHub) -> None:
    published.answers["/refs"] = b" " * (17 * 2**20)
    with pytest.raises(ReplyRefused, match="is longer than the 8388608 bytes allowed there"):
        open_store(published.url).resolve(parse_reference("alice/decimals"))


def test_file_names_are_quoted_in_addresses(hub: LoopbackHub, tmp_path: Path) -> None:
    names = {"deep/a b.txt": b"1", "näme.txt": b"3", "a#b.txt": b"4", "a&b=c+d.txt": b"5"}
    push(write_adapter(tmp_path / "adapter", extra=names), "alice/decimals", to=hub.url)
    folder = pull("alice/decimals", hub.url).folder
    assert {name: (folder / name).read_bytes() for name in names} == names


def test_pulling_and_pushing_import_nothing_heavy(hub: LoopbackHub, tmp_path: Path) -> None:
    folder = write_adapter(tmp_path / "adapter")
    script = (
        "import sys; from pathlib import Path; from edgelora.transfer import pull, push\n"
        f"push(Path({str(folder)!r}), 'alice/decimals', to={hub.url!r})\n"
        "pushed = sorted({'torch', 'numpy', 'transformers'} & set(sys.modules))\n"
        "print(pushed)\n"
    )
    pulling = (
        "import sys; from edgelora.transfer import pull\n"
        f"pull('alice/decimals', {hub.url!r})\n"
        "print(sorted({'torch', 'numpy', 'transformers', 'huggingface_hub', 'httpx2'} & set(sys.modules)))\n"
    )
    environment = {name: value for name, value in os.environ.items() if not name.endswith("_OFFLINE")}
    for program in (script, pulling):
        done = subprocess.run(
            [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
        )
        assert done.stdout == "[]\n"
