"""Vectors are found by their indexes, and placed so that a reader meets what the index says."""

import json
import stat
from pathlib import Path

import pytest

from edgelora.conformance import load_vectors
from edgelora.conformance.vectors import placed
from edgelora.errors import DataError, MissingFile


def write_suite(folder: Path, vectors: dict) -> Path:
    kind = folder / "directories"
    (kind / "one").mkdir(parents=True)
    (kind / "one" / "a.md").write_text("a")
    index = {"kind": "directories", "about": "", "vectors": vectors}
    (kind / "index.json").write_text(json.dumps(index))
    return folder


def test_vector_in_place_is_read_where_it_lies(tmp_path: Path) -> None:
    (vector,) = load_vectors(write_suite(tmp_path, {"one": {"rule": "r", "expect": "accept"}}))
    with placed(vector) as path:
        assert path == tmp_path / "directories" / "one"


def test_what_version_control_cannot_hold_is_made_in_a_copy(tmp_path: Path) -> None:
    make = [
        {"file": "deep/b\\c", "text": "b\r\n"},
        {"folder": "empty"},
        {"link": "l.md", "to": "a.md"},
        {"pipe": "p"},
    ]
    described = {"rule": "r", "expect": "refuse", "id": "file-unsafe", "make": make}
    (vector,) = load_vectors(write_suite(tmp_path, {"one": described}))
    with placed(vector) as path:
        assert path.parent.name == "directories"
        assert (path / "deep" / "b\\c").read_bytes() == b"b\r\n"
        assert (path / "empty").is_dir()
        assert (path / "l.md").is_symlink() and (path / "l.md").read_text() == "a"
        assert stat.S_ISFIFO((path / "p").lstat().st_mode)
    assert not path.exists()
    assert [item.name for item in (tmp_path / "directories" / "one").iterdir()] == ["a.md"]


def test_folder_without_vectors_says_which_folder_to_pass(tmp_path: Path) -> None:
    with pytest.raises(MissingFile, match="there are no conformance vectors in") as caught:
        load_vectors(tmp_path)
    assert "--vectors DIR" in caught.value.fix


@pytest.mark.parametrize(
    ("vectors", "problem"),
    [
        ({"none": {"rule": "r", "expect": "accept"}}, "names none, which is not there"),
        ({"one": {"rule": "r", "expect": "maybe"}}, "is no index of vectors: .*maybe"),
        ({"one": {"expect": "accept"}}, "is no index of vectors: KeyError"),
        ({"one": "accept"}, "is no index of vectors: TypeError"),
    ],
)
def test_malformed_index_is_named(tmp_path: Path, vectors: dict, problem: str) -> None:
    with pytest.raises(DataError, match=problem):
        load_vectors(write_suite(tmp_path, vectors))


def test_unknown_step_is_refused(tmp_path: Path) -> None:
    described = {"rule": "r", "expect": "accept", "make": [{"device": "x"}]}
    (vector,) = load_vectors(write_suite(tmp_path, {"one": described}))
    with pytest.raises(DataError, match="nothing is known about making"), placed(vector):
        pass


@pytest.mark.parametrize(
    "make",
    [
        [{"file": "../out.md", "text": "x"}],
        [{"folder": "/tmp/edgelora-out"}],
        [{"link": "away", "to": ".."}, {"file": "away/out.md", "text": "x"}],
    ],
)
def test_nothing_is_made_outside_of_the_copy(tmp_path: Path, make: list) -> None:
    described = {"rule": "r", "expect": "refuse", "make": make}
    (vector,) = load_vectors(write_suite(tmp_path, {"one": described}))
    with pytest.raises(DataError, match="would be made outside of the copy"), placed(vector):
        pass


def test_a_vector_outside_of_its_folder_is_refused(tmp_path: Path) -> None:
    suite = write_suite(tmp_path / "suite", {"../../secret": {"rule": "r", "expect": "accept"}})
    (tmp_path / "secret").touch()
    with pytest.raises(DataError, match="which is outside"):
        load_vectors(suite)
