"""No call anywhere lets a base or an adapter bring code of its own."""

from __future__ import annotations

import ast

import pytest
from source_tree import Module, modules

FOREIGN = "sdk/edgelora/engine/"
"""Where models of strangers are loaded; elsewhere `from_pretrained` reads what the project made itself."""


def identify(module: Module) -> str:
    return module.where


def calls(module: Module) -> list[ast.Call]:
    return [node for node in ast.walk(module.tree) if isinstance(node, ast.Call)]


@pytest.mark.parametrize("module", modules(), ids=identify)
def test_trust_remote_code_is_never_anything_but_false(module: Module) -> None:
    said = [
        ast.unparse(each.value)
        for call in calls(module)
        for each in call.keywords
        if each.arg == "trust_remote_code"
    ]
    assert set(said) <= {"False"}


@pytest.mark.parametrize("module", [each for each in modules() if FOREIGN in each.where], ids=identify)
def test_a_model_of_a_stranger_is_loaded_with_remote_code_forbidden(module: Module) -> None:
    loads = [call for call in calls(module) if ast.unparse(call.func).endswith(".from_pretrained")]
    forbidden = [call for call in loads if any(each.arg == "trust_remote_code" for each in call.keywords)]
    assert loads == forbidden
