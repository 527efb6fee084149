"""The quickstart overwrites nothing but a quickstart, and reuses only what its own rows have trained."""

import json
from pathlib import Path

import pytest

from edgelora import micro
from edgelora.errors import TargetExists
from edgelora_cli.quickstart_folder import MARKER, QuickstartFolder


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def folder(tmp_path: Path) -> QuickstartFolder:
    made = QuickstartFolder(tmp_path / "new" / "quickstart")
    made.write_inputs()
    return made


def test_a_folder_with_other_files_is_refused_and_stays_as_it_is(edgelora):
    here = Path.cwd()
    for name in ("train.jsonl", "recipe.yaml", "lora/adapter/edgelora.json", "pulled/lora/notes.txt"):
        (here / name).parent.mkdir(parents=True, exist_ok=True)
        (here / name).write_text("mine\n")
    before = contents(here)
    ran = edgelora("quickstart", "--out", ".")
    assert ran.exit_code == 3
    assert f"error[target-exists]: {here} holds files that are not the quickstart's" in ran.err
    assert "fix: name a folder that is empty or not there yet: --out FOLDER" in ran.err
    assert contents(here) == before


def test_a_new_and_an_empty_folder_are_taken_and_marked(folder, tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    QuickstartFolder(empty).write_inputs()
    assert contents(empty) == contents(folder.path)
    assert set(contents(empty)) == {MARKER, "recipe.yaml", "train.jsonl"}


def test_in_a_marked_folder_the_inputs_are_written_anew(folder):
    folder.rows.write_text("changed\n")
    folder.recipe.write_text("changed\n")
    QuickstartFolder(folder.path).write_inputs()
    assert folder.rows.read_bytes() == micro.quickstart_data().read_bytes()
    assert "derivative" in folder.recipe.read_text()


@pytest.mark.parametrize("name", ["lora", "qlora", "mirror", "pulled", MARKER])
def test_a_link_out_of_a_marked_folder_is_refused(folder, tmp_path, name):
    elsewhere = tmp_path / "elsewhere"
    if name == MARKER:
        folder.marker.rename(elsewhere)
    else:
        elsewhere.mkdir()
    (folder.path / name).symlink_to(elsewhere)
    with pytest.raises(TargetExists, match="is a link") as caught:
        QuickstartFolder(folder.path).write_inputs()
    assert f"rm {folder.path / name}" in caught.value.fix


def test_a_linked_input_is_replaced_and_what_it_names_is_left_alone(folder, tmp_path):
    mine = tmp_path / "mine.jsonl"
    mine.write_text("mine\n")
    folder.rows.unlink()
    folder.rows.symlink_to(mine)
    QuickstartFolder(folder.path).write_inputs()
    assert mine.read_text() == "mine\n" and not folder.rows.is_symlink()


def test_only_a_finished_run_on_the_same_rows_counts_as_trained(folder):
    assert not folder.is_trained_on_these_rows("lora")
    folder.remember_training("lora")
    again = QuickstartFolder(folder.path)
    again.write_inputs()
    assert again.is_trained_on_these_rows("lora") and not again.is_trained_on_these_rows("qlora")
    again.remember_training("qlora")
    assert again.is_trained_on_these_rows("lora") and again.is_trained_on_these_rows("qlora")
    again.rows.write_bytes(again.rows.read_bytes() + b"\n")
    assert not again.is_trained_on_these_rows("lora")


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"trained_on": 1}', "\x00"])
def test_a_marker_of_another_form_means_nothing_was_trained(folder, text):
    folder.marker.write_text(text)
    assert not folder.is_trained_on_these_rows("lora")
    folder.remember_training("lora")
    assert json.loads(folder.marker.read_text())["trained_on"].keys() == {"lora"}
