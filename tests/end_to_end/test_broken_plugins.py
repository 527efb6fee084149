"""Whatever strangers install beside it, edgelora works, and says what is wrong with what and what to do."""

import json
import os
import subprocess
import sys

import pytest
from fake_distributions import HEADER, FakeEnvironment
from tiny_models import write_rows

PART = "[Part(name={name!r}, target={target!r}, options={options})]"


def offering(name, *, hook="adapters", target="nowhere.at_all:Adapter", options="Options"):
    return f"@hookimpl\ndef edgelora_{hook}(): return " + PART.format(
        name=name, target=target, options=options
    )


BROKEN = {
    # plugin: its source, and words of the cause and of the fix that ``plugins list`` gives
    "needs-more": ("import no_such_module", "needs the module no_such_module", "install no_such_module"),
    "quits": ("import sys; sys.exit('bye')", "called sys.exit('bye')", "tell the author of quits"),
    "half-written": ("def broken(:", "SyntaxError", "upgrade half-written or tell its author"),
    "misspelt": ("@hookimpl\ndef edgelora_adapter(): return []", "no hook edgelora_adapter",
                 "did you mean edgelora_adapters?"),
    "asks": ("@hookimpl\ndef edgelora_adapters(config): return []", "this one declares config",
             "write def edgelora_adapters():"),
    "raises": ("@hookimpl\ndef edgelora_adapters(): raise RuntimeError('not now')", "RuntimeError: not now",
               "EDGELORA_BLOCK=raises"),
    "from-tomorrow": (f"edgelora_api = 2\n{offering('new')}", "needs hook API 2, this edgelora supports 1",
                      "pip install -U edgelora"),
    "loose": (offering("loose", options="dict"), "dict", "edgelora.Options"),
    "aimless": (offering("aimless", target="nowhere"), "the target 'nowhere' is not of the form",
                "'my_plugin.layer:MyAdapter'"),
    "bare": ("VALUE = 1", "implements no hook", "implement one of edgelora_quantizers"),
}  # fmt: skip


@pytest.fixture(scope="module")
def edgelora(tmp_path_factory):
    """Command lines, each in a fresh process where all the broken plugins are installed at once."""
    folder = tmp_path_factory.mktemp("broken")
    fakes = FakeEnvironment(folder / "site-packages")
    for plugin, (source, _, _) in BROKEN.items():
        module = f"fake_{plugin.replace('-', '_')}"
        fakes.install(plugin, {plugin: module}, modules={module: f"{HEADER}\n{source}"})
    fakes.install_adapter("twin", distribution="twin-one")
    fakes.install_adapter("twin", distribution="twin-two")
    fakes.install_adapter("qlora", distribution="impostor")
    fakes.install_module("shadow", offering("lora"))
    fakes.install_module("chatty", "print('hello from a plugin')\n" + offering("chatty"))
    fakes.install_module("heavy", "import torch\n" + offering("heavy", hook="evaluators"))
    fakes.install_module("hollow", offering("hollow", options="'fake_hollow:Settings'") + HOLLOW)
    environment = os.environ | {"PYTHONPATH": str(fakes.folder), "EDGELORA_HOME": str(folder / "home")}

    def run(*arguments):
        command = [sys.executable, "-m", "edgelora_cli", *arguments]
        return subprocess.run(
            command, cwd=folder, env=environment, text=True, capture_output=True, check=False
        )

    return run


HOLLOW = """

class Settings(Options):
    rank: int = 8
    alpha: float = 8.0
    target_modules: str = "all-linear"
"""


@pytest.fixture(scope="module")
def listed(edgelora):
    return edgelora("plugins", "list")


@pytest.fixture(scope="module")
def plugins(edgelora):
    """What ``plugins list --json`` says, by distribution."""
    ran = edgelora("plugins", "list", "--json")
    assert ran.returncode == 0, ran.stderr
    found = {}
    for plugin in json.loads(ran.stdout)["plugins"]:
        found.setdefault(plugin["distribution"], []).append(plugin)
    return found


def test_listing_succeeds_with_every_broken_plugin_installed(listed):
    assert listed.returncode == 0, listed.stderr
    assert listed.stdout.count("\n  fix: ") == len(BROKEN) + 3


@pytest.mark.parametrize("plugin", BROKEN)
def test_a_broken_plugin_is_named_with_its_cause_and_its_fix(listed, plugins, plugin):
    _, cause, fix = BROKEN[plugin]
    (found,) = plugins[plugin]
    assert found["state"] == "broken" and found["parts"] == []
    assert cause in found["cause"] and fix in found["fix"]
    assert f"\n{plugin} is broken: {found['cause']}\n  fix: {found['fix']}\n" in listed.stdout + "\n"


def test_two_that_claim_one_name_are_both_in_conflict(plugins):
    for one, other in (("twin-one", "twin-two"), ("twin-two", "twin-one")):
        (found,) = plugins[one]
        assert found["state"] == "conflict" and other in found["cause"] and "uninstall" in found["fix"]


def test_a_first_party_name_stays_first_party(plugins):
    (found,) = plugins["impostor"]
    assert found["state"] == "conflict" and "edgelora" in found["cause"]


def test_every_first_party_plugin_is_ready(plugins):
    assert {"baseline", "lora", "qlora"} <= {plugin["name"] for plugin in plugins["edgelora"]}
    assert [plugin["cause"] for plugin in plugins["edgelora"] if plugin["state"] != "ready"] == []


def test_a_plugin_that_makes_listing_slow_is_warned_of(listed, plugins):
    assert plugins["heavy"][0]["state"] == "ready"
    assert "heavy" in listed.stderr and "torch" in listed.stderr


def test_what_a_plugin_prints_is_not_in_the_answer(listed, plugins):
    assert plugins["chatty"][0]["state"] == "ready"
    assert "hello from a plugin" not in listed.stdout


@pytest.mark.parametrize("derivative", ["lora", "qlora"])
def test_first_party_recipes_still_plan(edgelora, derivative, tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(f"{{derivative: {derivative}, base: micro}}")
    ran = edgelora("plan", str(recipe), "--json")
    assert ran.returncode == 0, ran.stderr
    parts = json.loads(ran.stdout)["parts"].values()
    assert {part["distribution"] for part in parts} == {"edgelora"}


def test_a_name_of_two_plugins_asks_which(edgelora, tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("{derivative: qlora, adapter: lora, base: micro}")
    ran = edgelora("plan", str(recipe))
    assert ran.returncode == 3
    assert ran.stderr.endswith("  fix: write one of lora:lora, shadow:lora\n")


def test_a_part_whose_target_is_missing_is_named_before_anything_is_loaded(edgelora, tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("{derivative: lora, adapter: hollow, base: micro, data: [{path: a.jsonl}], out: out}")
    write_rows(tmp_path / "a.jsonl", 20)
    ran = edgelora("train", str(recipe))
    assert ran.returncode == 1
    assert "error[plugin-bug]: adapter 'hollow' of plugin hollow: there is no module nowhere\n" in ran.stderr
    assert "fix: upgrade hollow (1.0 is installed), or tell its author" in ran.stderr
    assert not (tmp_path / "out").exists()
