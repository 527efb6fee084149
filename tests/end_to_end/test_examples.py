"""Example recipes plan, and the plugin of the guide loads and plans, as they are printed."""

import importlib
import json
import re
import sys
import tomllib
from pathlib import Path

import pytest
import torch
import yaml

from edgelora.layers import FrozenLinear
from edgelora.plan import make_plan
from edgelora.plan.part import plan_part
from edgelora.protocols import Site
from edgelora.recipe import make_recipe, read_recipe
from edgelora.registry import Registry
from edgelora_cli import run_command

ROOT = Path(__file__).resolve().parents[2]
RECIPES = sorted((ROOT / "examples" / "recipes").glob("*.yaml"))
CODE = re.compile(r"^```python\n# (?P<path>\S+?\.py):? ?[^\n]*\n(?P<text>.*?)^```", re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_every_example_recipe_plans(recipe):
    assert make_plan(read_recipe(recipe), Registry.discover()).describe()


def test_the_quickstarts_recipe_is_shipped_and_shown_alike():
    shipped = yaml.safe_load((ROOT / "cli" / "edgelora_cli" / "quickstart.yaml").read_text())
    shown = yaml.safe_load((ROOT / "examples" / "recipes" / "quickstart.yaml").read_text())
    for document in (shipped, shown):
        document["data"][0].pop("path")
        document.pop("out")
    assert shown == shipped


@pytest.fixture
def guide(environment):
    """The package printed in docs/how-to/plugin.md, installed with the entry point printed there."""
    page = (ROOT / "docs" / "how-to" / "plugin.md").read_text(encoding="utf-8")
    for found in CODE.finditer(page):
        file = environment.folder / found["path"]
        file.parent.mkdir(exist_ok=True)
        file.write_text(found["text"], encoding="utf-8")
    (packaging,) = re.findall(r"^```toml\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    environment.install("edgelora-halved", tomllib.loads(packaging)["project"]["entry-points"]["edgelora"])
    yield importlib.import_module("edgelora_halved")
    for name in [name for name in sys.modules if name.startswith("edgelora_halved")]:
        del sys.modules[name]


@pytest.mark.parametrize("plugin", ["halved", "damped"])
def test_the_plugin_of_the_guide_passes_the_kit(guide, capsys, plugin):
    code = run_command(["plugins", "check", plugin, "--json"])
    report = json.loads(capsys.readouterr().out)
    checks = [check for each in report["checked"] for check in each["checks"]]
    assert [check for check in checks if check["outcome"] == "failed"] == []
    assert code == 0 and report["ok"] > 15


def test_the_plugin_of_the_guide_works(guide):
    lora = importlib.import_module("edgelora_plugins.lora")
    baseline = importlib.import_module("edgelora_plugins.baseline")
    registry = Registry.from_modules({"halved": guide, "lora": lora, "baseline": baseline})
    assert [plugin.cause for plugin in registry.plugins] == ["", "", ""]
    recipe = {"derivative": "halved-lora", "base": "micro", "loss_combiner": {"factor": 0.25}}
    combiner = make_plan(make_recipe(recipe), registry).build("loss_combiner")
    assert combiner({"task.main": 8.0, "aux.x": 4.0}, step=0) == 3.0


def test_the_option_of_the_guides_adapter_reaches_its_layers(guide):
    registry = Registry.discover()
    site = Site("up_proj", 0, "up_proj", rank=2, alpha=8.0)
    base = FrozenLinear(torch.ones(3, 4), None, 4, 3)
    for damping in (0.25, 1.0):
        adapter = plan_part(registry.part("adapter", "damped"), {"rank": 2, "damping": damping}).build()
        assert adapter.wrap(base, site).factors().scaling == 4.0 * damping
