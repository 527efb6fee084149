"""No error is dead: each class is raised somewhere in the source, and some test expects it."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

import pytest
from source_tree import ROOT, modules

from edgelora.errors import EdgeloraError, every_error

DEFINITIONS = "sdk/edgelora/errors.py"
EVERY = pytest.mark.parametrize("kind", every_error(), ids=lambda kind: kind.__name__)


@cache
def raised() -> frozenset[str]:
    """Classes that are called, to be raised there or where the call's result goes, or raised as they are."""
    found = set()
    for module in modules():
        for node in ast.walk(module.tree) if module.where != DEFINITIONS else ():
            if isinstance(node, ast.Call):
                found.add(last_name(node.func))
            elif isinstance(node, ast.Raise) and node.exc is not None:
                found.add(last_name(node.exc))
    return frozenset(found)


@cache
def expected() -> frozenset[str]:
    """Names and texts in the asserts of all tests, in ``pytest.raises`` and in what tests are given."""
    found: set[str] = set()
    for path in sorted((ROOT / "tests").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            is_given = isinstance(node, ast.Call) and last_name(node.func) in (
                "raises",
                "parametrize",
                "param",
            )
            if (isinstance(node, ast.Assert) or is_given) and path != Path(__file__):
                found.update(words(node))
    return frozenset(found)


def last_name(node: ast.expr) -> str:
    """``b`` of ``a.b`` and of ``b``; empty for anything else."""
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


def words(node: ast.AST) -> set[str]:
    inner = list(ast.walk(node))
    names = {last_name(each) for each in inner if isinstance(each, ast.Name | ast.Attribute)}
    return names | {str(each.value) for each in inner if isinstance(each, ast.Constant)}


@EVERY
def test_an_error_is_raised_somewhere(kind: type[EdgeloraError]) -> None:
    assert kind.__name__ in raised(), f"nothing raises {kind.__name__}: raise it, or remove it"


@EVERY
def test_some_test_expects_the_error(kind: type[EdgeloraError]) -> None:
    by_id = any(text == kind.id or f"[{kind.id}]" in text for text in expected())
    assert kind.__name__ in expected() or by_id, f"no test expects {kind.__name__} ({kind.id})"
