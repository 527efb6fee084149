"""The form of files: length, names, docstrings, and no project text that only makes sense on one machine."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from source_tree import ROOT, Module, modules, project_files

LONGEST = 300
LONGER = {
    "sdk/edgelora/errors.py": "every error of the project, in one table by exit code",
}
NAMES_WITHOUT_TOPIC = {"utils", "util", "common", "helpers", "helper", "misc", "tools", "base_classes"}
# Written in pieces, so that this file does not contain what it forbids.
FORBIDDEN = ("/" + "work/", "/" + "root/")


def identify(module: Module) -> str:
    return module.where


@pytest.mark.parametrize("module", modules(), ids=identify)
def test_a_file_holds_one_idea(module: Module) -> None:
    length = len(module.text.splitlines())
    assert length <= LONGEST or module.where in LONGER, f"{length} lines; split it by topic"


def test_every_exception_from_the_length_is_still_needed() -> None:
    lengths = {module.where: len(module.text.splitlines()) for module in modules()}
    assert [where for where in LONGER if lengths.get(where, 0) <= LONGEST] == []


@pytest.mark.parametrize("module", modules(), ids=identify)
def test_a_module_says_what_it_is_for(module: Module) -> None:
    assert ast.get_docstring(module.tree), "its first statement must be a docstring"


@pytest.mark.parametrize("module", modules(), ids=identify)
def test_a_file_is_named_for_its_topic(module: Module) -> None:
    assert module.path.stem not in NAMES_WITHOUT_TOPIC
    assert not module.path.stem.endswith(("_utils", "_helpers"))


@pytest.mark.parametrize("module", modules(), ids=identify)
def test_no_bare_except_and_no_broad_one_without_its_reason(module: Module) -> None:
    lines = module.text.splitlines()
    for node in ast.walk(module.tree):
        if isinstance(node, ast.ExceptHandler):
            assert node.type is not None, f"line {node.lineno}: a bare except"
            caught = ast.unparse(node.type)
            cleans_up = isinstance(node.body[-1], ast.Raise) and node.body[-1].exc is None
            is_broad = caught in ("Exception", "BaseException") or "Exception," in caught
            if is_broad and not cleans_up:
                around = lines[node.lineno - 2 : node.lineno + 2]
                assert any("#" in line for line in around), f"line {node.lineno}: {caught} without a reason"


def test_the_specification_holds_no_python() -> None:
    assert sorted((ROOT / "spec").rglob("*.py")) == []


def test_project_text_names_no_machine_path() -> None:
    guilty = []
    for path in project_files():
        text = read_text(path)
        guilty += [f"{path.relative_to(ROOT)}: {word}" for word in FORBIDDEN if word in text]
    assert guilty == []


def read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return ""
