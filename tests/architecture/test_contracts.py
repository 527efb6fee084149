"""What the project promises about itself: hooks, options, errors and first-party plugins."""

from __future__ import annotations

import ast
import inspect
import tomllib

import pytest
from source_tree import ROOT, modules

from edgelora import hookspecs
from edgelora.errors import EdgeloraError, every_error
from edgelora.parts import KINDS
from edgelora.plan.options import options_model
from edgelora.registry import Registry
from edgelora.registry.admission import DERIVATIVES_HOOK, HOOK_OF_KIND, HOOKS
from edgelora.registry.lookup import names_of
from edgelora.registry.status import FoundPart

FIRST_PARTY = [status for status in Registry.discover().plugins if status.distribution == "edgelora"]
PARTS = [found for status in FIRST_PARTY for found in status.parts]
EXIT_CODES = {1, 3, 4, 5, 6, 7, 8, 9, 10, 11, 130}


def name_of(found: FoundPart) -> str:
    return f"{found.kind}-{found.qualified_name}"


def test_there_is_one_hook_per_kind_and_one_for_derivatives() -> None:
    specified = {name for name, _ in inspect.getmembers(hookspecs, inspect.isfunction)}
    assert specified == {*HOOK_OF_KIND.values(), DERIVATIVES_HOOK} == set(HOOKS)
    assert set(HOOK_OF_KIND) == set(KINDS)


@pytest.mark.parametrize("hook", HOOKS)
def test_a_hook_is_documented_and_takes_no_arguments(hook: str) -> None:
    function = getattr(hookspecs, hook)
    assert inspect.getdoc(function)
    assert not inspect.signature(function).parameters


def test_first_party_plugins_are_registered_by_entry_points_only() -> None:
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]["edgelora"]
    folders = {path.parent.name for path in (ROOT / "plugins" / "edgelora_plugins").glob("*/__init__.py")}
    assert set(declared) == folders
    assert all(target == f"edgelora_plugins.{name}" for name, target in declared.items())


@pytest.mark.parametrize("status", FIRST_PARTY, ids=lambda status: status.name)
def test_a_first_party_plugin_is_ready_and_light(status) -> None:  # type: ignore[no-untyped-def]
    assert (status.state, status.cause) == ("ready", "")
    assert not status.heavy_imports


@pytest.mark.parametrize("found", PARTS, ids=name_of)
def test_each_option_is_documented(found: FoundPart) -> None:
    fields = options_model(found).model_fields
    assert [name for name, field in fields.items() if not field.description] == []


@pytest.mark.parametrize("found", PARTS, ids=name_of)
def test_each_part_has_a_summary_of_one_line(found: FoundPart) -> None:
    assert found.part.summary and "\n" not in found.part.summary


@pytest.mark.parametrize("found", PARTS, ids=name_of)
def test_the_target_of_a_first_party_part_is_defined_in_its_own_plugin(found: FoundPart) -> None:
    module_name, _, attribute = found.part.target.partition(":")
    assert module_name.startswith(f"edgelora_plugins.{found.plugin}.")
    (module,) = [each for each in modules("plugins") if each.name == module_name]
    defined = {node.name for node in module.tree.body if isinstance(node, ast.ClassDef | ast.FunctionDef)}
    assert attribute in defined


def test_first_party_names_are_not_ambiguous() -> None:
    names = [(found.kind, name) for found in PARTS for name in names_of(found)]
    names += [
        ("derivative", name)
        for status in FIRST_PARTY
        for each in status.derivatives
        for name in names_of(each)
    ]
    assert sorted(name for name in set(names) if names.count(name) > 1) == []


def test_error_ids_are_unique() -> None:
    ids = [kind.id for kind in every_error()]
    assert len(ids) == len(set(ids))
    assert EdgeloraError.id not in ids


@pytest.mark.parametrize("kind", every_error(), ids=lambda kind: kind.__name__)
def test_an_error_class_has_a_docstring_an_id_and_a_known_exit_code(kind: type[EdgeloraError]) -> None:
    assert kind.__dict__.get("__doc__")
    assert kind.__dict__.get("id", "").replace("-", "").isalpha()
    assert kind.exit_code in EXIT_CODES


def test_errors_are_defined_in_one_file() -> None:
    names = {kind.__name__ for kind in every_error()} | {"EdgeloraError"}
    strays = [
        f"{module.where}: {node.name}"
        for module in modules()
        if module.name != "edgelora.errors"
        for node in ast.walk(module.tree)
        if isinstance(node, ast.ClassDef)
        and {ast.unparse(base).split(".")[-1] for base in node.bases} & names
    ]
    assert strays == []


def test_every_error_is_raised_with_a_fix() -> None:
    names = {kind.__name__ for kind in every_error()} | {"EdgeloraError"}
    without = [
        f"{module.where}:{node.lineno}"
        for module in modules()
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id in names
        and not any(keyword.arg in ("fix", None) for keyword in node.keywords)
    ]
    assert without == []
