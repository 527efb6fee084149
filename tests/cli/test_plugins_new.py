"""``edgelora plugins new`` writes a distribution that is ready as it is, or nothing at all."""

import ast
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from hatchling.builders.wheel import WheelBuilder

from edgelora.parts import KINDS
from edgelora.registry import Registry
from edgelora.scaffold import writing

KIND = pytest.mark.parametrize("kind", [kind.replace("_", "-") for kind in KINDS])
PROJECT = Path(__file__).resolve().parents[2]


@KIND
def test_a_new_plugin_is_ready_light_and_offers_its_part(edgelora, monkeypatch, kind):
    ran = edgelora("plugins", "new", f"fresh-{kind}", "--kind", kind, "--json")
    assert ran.exit_code == 0
    folder = Path(ran.document["folder"])
    assert sorted(ran.document["files"]) == sorted(
        path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()
    )
    project = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
    ((name, target),) = project["entry-points"]["edgelora"].items()
    assert (name, project["name"]) == (f"fresh-{kind}", f"edgelora-fresh-{kind}")
    assert project["dependencies"] == ["edgelora>=0.1,<1"]
    monkeypatch.syspath_prepend(str(folder.resolve()))
    registry = Registry.from_modules({name: __import__(target)})
    (status,) = registry.plugins
    assert (status.state, status.cause, status.heavy_imports) == ("ready", "", ())
    assert [(part.kind.replace("_", "-"), part.part.name) for part in status.parts] == [(kind, name)]


@KIND
def test_a_new_plugin_is_clean_for_ruff_and_mypy(edgelora, kind):
    folder = Path(edgelora("plugins", "new", "fresh", "--kind", kind, "--json").document["folder"])
    ruff = [sys.executable, "-m", "ruff"]
    for check in (["check", "--select", "E,F,I,UP,B,SIM,RUF"], ["format", "--check"]):
        subprocess.run([*ruff, *check, "--isolated", "--line-length", "110", str(folder)], check=True)
    for path in folder.rglob("*.py"):
        assert ast.get_docstring(ast.parse(path.read_text())) or path.parent.name == "tests"


@pytest.mark.acceptance
def test_new_plugins_and_examples_are_typed_to_the_letter(edgelora):
    for kind in KINDS:
        edgelora("plugins", "new", f"typed-{kind.replace('_', '-')}", "--kind", kind.replace("_", "-"))
    new, examples = Path().glob("*/*/py.typed"), (PROJECT / "examples").glob("*/*/py.typed")
    packages = [path.parent for path in (*new, *examples)]
    assert len(packages) >= 2 * len(KINDS)
    options = ["--strict", "--config-file", os.devnull, "--cache-dir", "mypy", "--no-error-summary"]
    subprocess.run(
        [sys.executable, "-m", "mypy", *options, *packages],
        check=True,
        env=os.environ | {"MYPYPATH": ":".join(str(package.parent) for package in packages)},
    )


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("lora", "'lora' is taken by a plugin of edgelora"),
        ("nf4", "'nf4' is taken by the quantizers of plugin qlora"),
        ("rslora", "'rslora' is taken by the derivatives of plugin lora"),
        ("cli", "a module edgelora_cli is installed already"),
        ("plugins", "a module edgelora_plugins is installed already"),
        ("edgelora-mine", "the distribution of 'mine' is called edgelora-mine"),
        ("My_Method", "'My_Method' is no name of a part"),
        ("8bit", "a letter first"),
        ("null", "'null' means something else in a recipe: YAML reads it as None"),
        ("yes", "YAML reads it as True"),
        ("../mine", "is no name of a part"),
        ("mine-", "is no name of a part"),
        ("m" * 51, "up to 50"),
    ],
)
def test_a_name_that_cannot_be_is_a_usage_error_and_nothing_is_written(edgelora, name, reason):
    ran = edgelora("plugins", "new", name, "--kind", "adapter", "--json")
    assert (ran.exit_code, ran.document["error"]["id"]) == (2, "usage")
    assert reason in ran.err
    assert list(Path().iterdir()) == []


def test_the_name_of_a_plugin_somebody_else_installed_is_taken_too(edgelora, environment):
    environment.install_adapter("theirs", part="their-part")
    assert "taken by a plugin of theirs" in edgelora("plugins", "new", "theirs", "--kind", "adapter").err
    ran = edgelora("plugins", "new", "their-part", "--kind", "evaluator")
    assert "taken by the derivatives of plugin theirs" in ran.err


def test_a_kind_that_is_not_one_names_those_there_are(edgelora):
    ran = edgelora("plugins", "new", "mine", "--kind", "optimizer")
    assert ran.exit_code == 2
    assert "'adapter'" in ran.err and "'rank-scheduler'" in ran.err


def test_what_is_there_is_never_replaced(edgelora):
    Path("mine").mkdir()
    ran = edgelora("plugins", "new", "mine", "--kind", "adapter", "--out", "mine")
    assert ran.exit_code == 3
    assert ran.err == (
        "error[target-exists]: mine exists already\n"
        "  fix: choose another folder with --out, or delete it first\n"
    )
    assert list(Path("mine").iterdir()) == []


def test_a_failure_half_way_leaves_nothing(edgelora, monkeypatch):
    written = []

    def fail_at_the_third(path, data):
        written.append(path)
        if len(written) == 3:
            raise OSError(28, "No space left on device", str(path))
        path.write_bytes(data)

    monkeypatch.setattr(writing, "write_new", fail_at_the_third)
    ran = edgelora("plugins", "new", "mine", "--kind", "adapter")
    assert ran.exit_code == 8 and len(written) == 3
    assert list(Path().iterdir()) == []


def test_the_next_steps_are_told(edgelora):
    ran = edgelora("plugins", "new", "half-sum", "--kind", "loss-combiner", "--out", "deep/down")
    assert ran.out.startswith("wrote deep/down: README.md, edgelora_half_sum/__init__.py, ")
    assert "cd deep/down && pip install --no-build-isolation -e . && python -m pytest" in ran.err
    assert "then edit edgelora_half_sum/loss_combiner.py" in ran.err


def test_every_kind_has_its_templates_and_the_wheel_has_them_all():
    folder = PROJECT / "sdk" / "edgelora" / "scaffold" / "templates"
    expected = {f"{kind}/{name}.py.tmpl" for kind in KINDS for name in ("options", kind)}
    common = {f"plugin/{name}.tmpl" for name in ("pyproject.toml", "README.md", "__init__.py", "test.py")}
    found = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert found == expected | common
    shipped = {file.distribution_path for file in WheelBuilder(str(PROJECT)).recurse_included_files()}
    assert {f"edgelora/scaffold/templates/{name}" for name in found} <= shipped


def test_writing_a_plugin_imports_nothing_heavy(tmp_path):
    code = (
        "import sys, edgelora_cli; assert edgelora_cli.run_command(sys.argv[1:]) == 0;"
        "assert not {'torch', 'numpy', 'transformers', 'huggingface_hub'} & set(sys.modules)"
    )
    arguments = ["plugins", "new", "mine", "--kind", "adapter"]
    subprocess.run([sys.executable, "-c", code, *arguments], check=True, cwd=tmp_path, capture_output=True)
