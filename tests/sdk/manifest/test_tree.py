"""Describing the files of an adapter."""

import hashlib
from pathlib import Path

import pytest

from edgelora.errors import MissingFile, PathError, UnsafeFile
from edgelora.manifest import FileEntry, describe_files, tree_digest
from edgelora.manifest.tree import media_type_of, role_of

PUBLISHED = [
    ("README.md", 5171, "c7add21471a866b775294cf88f3bbfc86226c6be7f131e95647ef98242c68585"),
    ("adapter_config.json", 1092, "b7b3a531482c30369cd362684787471048ababbe97d6b894d7564e3f8dc10b2b"),
    ("adapter_model.safetensors", 8192, "8886e599434d829fc02ce2fa9a6d47230d4d402aaaf941a5da55783c30673a0b"),
]


def test_tree_digest_of_the_published_example_is_reproduced() -> None:
    files = [
        FileEntry(path=path, size=size, sha256=sha256, media_type=media_type_of(path), role=role_of(path))
        for path, size, sha256 in PUBLISHED
    ]
    published = "sha256:f962e91923a2f7896a5ad60926f95048cb3dfa72e76cc8492f52092e3005a451"
    assert tree_digest(files) == tree_digest(reversed(files)) == published


def test_every_file_but_the_excepted_is_described_in_order(tmp_path: Path) -> None:
    for name in (
        "b.md",
        "edgelora.json",
        "edgelora.sig.json",
        ".gitattributes",
        "a/edgelora.json",
        "a/z",
        "Z",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    entries = describe_files(tmp_path)
    assert [entry.path for entry in entries] == ["Z", "a/edgelora.json", "a/z", "b.md"]
    assert entries[3].sha256 == hashlib.sha256(b"b.md").hexdigest()
    assert entries[3].size == 4


@pytest.mark.parametrize(
    ("path", "role", "media_type"),
    [
        ("adapter_model.safetensors", "weights", "application/vnd.safetensors"),
        ("edgelora.safetensors", "weights", "application/vnd.safetensors"),
        ("head.safetensors", "head", "application/vnd.safetensors"),
        ("adapter_config.json", "config", "application/json"),
        ("README.md", "card", "text/markdown"),
        ("LICENSE", "license", "application/octet-stream"),
        ("tokenizer.json", "tokenizer", "application/json"),
        ("chat_template.jinja", "tokenizer", "text/plain"),
        ("evaluation.json", "eval", "application/json"),
        ("eval/rows.jsonl", "eval", "application/x-ndjson"),
        ("bom.cdx.json", "sbom", "application/json"),
        ("notes.txt", "other", "text/plain"),
        ("data", "other", "application/octet-stream"),
    ],
)
def test_role_and_media_type_follow_the_name(path: str, role: str, media_type: str) -> None:
    assert (role_of(path), media_type_of(path)) == (role, media_type)


def test_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.md").symlink_to("/etc/hostname")
    with pytest.raises(UnsafeFile, match=r"a\.md in .* is a symbolic link") as caught:
        describe_files(tmp_path)
    assert caught.value.fix == "replace it by a regular file"


def test_names_that_clash_elsewhere_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.md").write_text("")
    (tmp_path / "A.md").write_text("")
    with pytest.raises(PathError, match="clash: they are the same file where case is ignored") as caught:
        describe_files(tmp_path)
    assert caught.value.fix == "rename one of them"


def test_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(MissingFile, match="there is no folder"):
        describe_files(tmp_path / "none")
