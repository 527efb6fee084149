"""Light modules stay light: nothing heavy in ``sys.modules`` after importing any of them."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from source_tree import HEAVY, HEAVY_MODULES, Module, light_modules, modules

from edgelora.registry import HEAVY as WATCHED

IMPORT_ALL = f"""
import importlib, json, sys
heavy = {sorted(HEAVY)!r}
guilty = []
for name in json.load(sys.stdin):
    importlib.import_module(name)
    loaded = [each for each in heavy if each in sys.modules]
    if loaded:
        guilty.append([name, loaded])
        break
print(json.dumps(guilty))
"""


def identify(module: Module) -> str:
    return module.name


def run_python(script: str, given: str = "") -> str:
    done = subprocess.run([sys.executable, "-c", script], input=given, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1]


def test_importing_all_light_modules_imports_nothing_heavy() -> None:
    names = [module.name for module in light_modules() if not module.name.endswith("__main__")]
    assert json.loads(run_python(IMPORT_ALL, json.dumps(names))) == [], "the module and what it imported"


def test_discovering_the_plugins_imports_nothing_heavy() -> None:
    script = (
        "import edgelora, json, sys; from edgelora.registry import Registry; r = Registry.discover();"
        f"print(json.dumps([name for name in {sorted(HEAVY)!r} if name in sys.modules]))"
    )
    assert json.loads(run_python(script)) == []


@pytest.mark.parametrize("module", light_modules(), ids=identify)
def test_a_light_module_imports_nothing_heavy_at_module_level(module: Module) -> None:
    heavy = [
        f"line {each.line}: {each.name}"
        for each in module.imports()
        if not each.in_function and each.name.partition(".")[0] in HEAVY
    ]
    assert heavy == []


def test_the_registry_watches_for_the_same_packages() -> None:
    assert set(WATCHED) == HEAVY


def test_every_exception_from_the_light_path_exists() -> None:
    assert set(HEAVY_MODULES) <= {module.name for module in modules()}
