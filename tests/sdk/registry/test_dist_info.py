"""The quick scan finds what `importlib.metadata` finds, and survives what is broken."""

from __future__ import annotations

import importlib.metadata
import sys
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest
from fake_distributions import FakeEnvironment

from edgelora.registry.dist_info import DistInfo, distributions_mentioning, entry_points

METADATA = "Metadata-Version: 2.1\nName: acme-lora\nVersion: 2.0\n\nVersion: 9 is mentioned in this text\n"
POINTS = "[edgelora]\nacme = acme_lora\n"


def found(name: str) -> list[DistInfo]:
    return [each for each in distributions_mentioning("[edgelora]") if each.name == name]


def write(folder: Path, files: dict[str, str]) -> None:
    folder.mkdir(parents=True)
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8")


def test_it_agrees_with_importlib_metadata_about_this_environment() -> None:
    for group in ("edgelora", "console_scripts"):
        quick = {
            (name, target, each.name, each.version)
            for each in distributions_mentioning(f"[{group}]")
            for name, target in entry_points(each.entry_points, group)
        }
        thorough = {
            (point.name, point.value, point.dist.name, point.dist.version)
            for point in importlib.metadata.entry_points(group=group)
            if point.dist is not None
        }
        assert quick >= thorough and thorough


@pytest.mark.parametrize(
    ("folder", "metadata"),
    [("acme_lora-2.0.dist-info", "METADATA"), ("acme_lora.egg-info", "PKG-INFO")],
)
def test_a_distribution_in_a_folder_is_found(
    environment: FakeEnvironment, folder: str, metadata: str
) -> None:
    write(environment.folder / folder, {metadata: METADATA, "entry_points.txt": POINTS})
    assert found("acme-lora") == [DistInfo("acme-lora", "2.0", POINTS)]


def test_a_distribution_in_an_egg_folder_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    egg = tmp_path / "acme_lora-2.0-py3.11.egg"
    write(egg / "EGG-INFO", {"PKG-INFO": METADATA, "entry_points.txt": POINTS})
    monkeypatch.syspath_prepend(egg)
    assert found("acme-lora") == [DistInfo("acme-lora", "2.0", POINTS)]


def test_a_distribution_in_a_zip_file_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with zipfile.ZipFile(tmp_path / "acme.zip", "w") as archive:
        archive.writestr("acme_lora-2.0.dist-info/METADATA", METADATA)
        archive.writestr("acme_lora-2.0.dist-info/entry_points.txt", POINTS)
    monkeypatch.syspath_prepend(tmp_path / "acme.zip")
    assert found("acme-lora") == [DistInfo("acme-lora", "2.0", POINTS)]


def test_a_distribution_of_another_import_system_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    class Stored(importlib.metadata.Distribution):
        def read_text(self, filename: str) -> str | None:
            return {"METADATA": METADATA, "entry_points.txt": POINTS}.get(filename)

        def locate_file(self, path: object) -> Path:  # type: ignore[override]
            raise FileNotFoundError(path)

    finder = SimpleNamespace(find_distributions=lambda: [Stored()], find_spec=lambda *_: None)
    monkeypatch.setattr(sys, "meta_path", [*sys.meta_path, finder])
    assert found("acme-lora") == [DistInfo("acme-lora", "2.0", POINTS)]


def test_the_working_directory_counts_where_it_is_on_the_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "acme_lora-2.0.dist-info", {"METADATA": METADATA, "entry_points.txt": POINTS})
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend("")
    assert found("acme-lora") == [DistInfo("acme-lora", "2.0", POINTS)]


def test_a_distribution_without_metadata_is_named_by_its_folder(environment: FakeEnvironment) -> None:
    write(environment.folder / "acme_lora-2.0.dist-info", {"entry_points.txt": POINTS})
    write(environment.folder / "bare.egg-info", {"entry_points.txt": POINTS})
    assert found("acme_lora") == [DistInfo("acme_lora", "2.0", POINTS)]
    assert found("bare") == [DistInfo("bare", "unknown", POINTS)]


def test_what_cannot_be_read_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "old-1.0.egg-info").write_text("a file, as distutils wrote it")
    (tmp_path / "no_archive.zip").write_text("not a zip file")
    noise = tmp_path / "noise-1.0.dist-info"
    noise.mkdir()
    (noise / "entry_points.txt").write_bytes(b"\xff\xfe [edgelora]")
    for entry in (tmp_path, tmp_path / "no_archive.zip", tmp_path / "gone"):
        monkeypatch.syspath_prepend(entry)
    assert found("noise") == found("old") == []


def test_entry_points_of_other_groups_and_comments_are_passed_over() -> None:
    text = "[console_scripts]\nrun = a:main\nnonsense\n[edgelora]\n# one\none = a\ntwo=b:c [extra]\n[x]\ny=z"
    assert entry_points(text, "edgelora") == [("one", "a"), ("two", "b:c [extra]")]


def test_a_line_that_is_no_entry_point_is_refused() -> None:
    with pytest.raises(ValueError, match="'nothing here' is not of the form 'name = module'"):
        entry_points("[edgelora]\nnothing here\n", "edgelora")
