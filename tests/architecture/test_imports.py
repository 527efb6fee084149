"""Who may import whom."""

from __future__ import annotations

import ast

import pytest
from source_tree import Import, Module, modules

ONE_IMPORTER = {
    "huggingface_hub": ("sdk/edgelora/store/hub.py",),
    "bitsandbytes": ("sdk/edgelora/layers/nf4.py",),
    # In the conformance kit stock PEFT is an oracle; no job and no command but `plugins check` gets there.
    "peft": ("plugins/edgelora_plugins/peft/", "sdk/edgelora/testing/stock_peft.py"),
    "gguf": ("sdk/edgelora/engine/exporting/gguf_tensors.py",),
    "matplotlib": ("sdk/edgelora/engine/analysis/pictures.py",),
    "tuf": ("sdk/edgelora/freshness/",),
    "securesystemslib": ("sdk/edgelora/freshness/",),
}
HEAVY_PARTS = ("edgelora.engine", "edgelora.layers")
CONDUCTOR = "sdk/edgelora/run.py"


def identify(module: Module) -> str:
    return module.name


def told(imports: list[Import]) -> list[str]:
    return [f"line {each.line}: {each.name}" for each in imports]


def imports_of(module: Module, *packages: str) -> list[Import]:
    return [each for each in module.imports() if any(each.is_of(package) for package in packages)]


@pytest.mark.parametrize("module", modules("sdk"), ids=identify)
def test_the_sdk_imports_neither_plugins_nor_cli(module: Module) -> None:
    assert told(imports_of(module, "edgelora_plugins", "edgelora_cli")) == []


@pytest.mark.parametrize("module", modules("sdk"), ids=identify)
def test_the_sdk_names_no_first_party_plugin_package_not_even_by_string(module: Module) -> None:
    named = [
        f"line {node.lineno}: {node.value!r}"
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and "edgelora_plugins" in node.value
    ]
    assert named == []


@pytest.mark.parametrize("module", modules("plugins"), ids=identify)
def test_a_plugin_imports_no_other_plugin_no_engine_and_no_cli(module: Module) -> None:
    own = ".".join(module.name.split(".")[:2])
    foreign = [each for each in imports_of(module, "edgelora_plugins") if not each.is_of(own)]
    if own != "edgelora_plugins":
        foreign = [each for each in foreign if each.name != "edgelora_plugins"]
    assert told(foreign + imports_of(module, "edgelora.engine", "edgelora_cli")) == []


@pytest.mark.parametrize("module", [each for each in modules("sdk") if not each.is_heavy], ids=identify)
def test_a_light_sdk_module_leaves_engine_and_layers_to_the_conductor(module: Module) -> None:
    heavy = imports_of(module, *HEAVY_PARTS)
    if module.where == CONDUCTOR:
        heavy = [each for each in heavy if not each.in_function]
    assert told(heavy) == []


@pytest.mark.parametrize("module", modules("cli"), ids=identify)
def test_the_cli_imports_engine_and_layers_inside_functions_and_no_plugin(module: Module) -> None:
    heavy = [each for each in imports_of(module, *HEAVY_PARTS) if not each.in_function]
    assert told(heavy + imports_of(module, "edgelora_plugins")) == []


@pytest.mark.parametrize(
    "module", [each for each in modules("sdk") if each.name.startswith("edgelora.layers")], ids=identify
)
def test_layers_import_no_engine(module: Module) -> None:
    assert told(imports_of(module, "edgelora.engine")) == []


@pytest.mark.parametrize("package", ONE_IMPORTER)
def test_a_heavy_dependency_has_one_importer(package: str) -> None:
    importers = {module.where for module in modules() if imports_of(module, package)}
    strangers = {where for where in importers if not where.startswith(ONE_IMPORTER[package])}
    assert strangers == set()


@pytest.mark.parametrize("module", modules(), ids=identify)
def test_nothing_reads_the_specification_at_run_time(module: Module) -> None:
    paths = [
        f"line {node.lineno}: {node.value!r}"
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.startswith("spec/")
    ]
    assert paths == []
