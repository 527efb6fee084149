"""Third-party plugins, as strangers install and use them: the examples, and what ``plugins new`` writes.

Everything is built and installed offline, into virtual environments that see this one's packages.
"""

import importlib
import json
import os
import re
import subprocess
import sys
import sysconfig
import tomllib
import venv
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file
from tiny_models import save_llama, save_tokenizer, write_rows
from torch import nn

from edgelora import AdapterOptions
from edgelora.parts import KINDS
from edgelora.plan.part import plan_part
from edgelora.protocols import Site
from edgelora.registry import Registry

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
FOLDERS = sorted(path.parent for path in EXAMPLES.glob("*/pyproject.toml"))
NAMES = [folder.name for folder in FOLDERS]

COMMANDS = """
import contextlib, io, json, sys
from edgelora_cli import run_command
ran = []
for arguments in json.load(sys.stdin):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = run_command(arguments)
    ran.append([code, out.getvalue(), err.getvalue()])
json.dump(ran, sys.stdout)
"""
PROMPTS = ("say xxx", "say xxxxxxxx")


class Environment:
    """A virtual environment of its own, which also sees the packages of the one the tests run in."""

    def __init__(self, folder, home):
        self.folder, self.home = folder, home
        venv.create(folder, symlinks=True)
        python = f"python{sys.version_info.major}.{sys.version_info.minor}"
        (folder / "lib" / python / "site-packages" / "seen.pth").write_text(
            f"import site; site.addsitedir({sysconfig.get_path('purelib')!r})\n"
        )

    def python(self, *arguments, **keywords):
        environment = os.environ | {"EDGELORA_HOME": str(self.home), "OMP_NUM_THREADS": "1"}
        environment.pop("PYTHONPATH", None)
        return subprocess.run(
            [self.folder / "bin" / "python", *arguments],
            env=environment,
            text=True,
            capture_output=True,
            check=False,
            **keywords,
        )

    def pip_install(self, *arguments):
        done = self.python("-m", "pip", "install", "--no-index", "--quiet", *map(str, arguments))
        assert done.returncode == 0, done.stderr

    def edgelora(self, *lines):
        """Run command lines one after the other in one fresh process; each one's code, stdout and stderr."""
        done = self.python("-c", COMMANDS, input=json.dumps(lines))
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """An environment with the examples, installed from wheels."""
    folder = tmp_path_factory.mktemp("environment")
    made = Environment(folder / "venv", folder / "home")
    wheel = ["-m", "pip", "wheel", "--quiet", "--no-index", "--no-deps", "--no-build-isolation"]
    done = made.python(*wheel, "--wheel-dir", str(folder / "wheels"), *map(str, FOLDERS))
    assert done.returncode == 0, done.stderr
    made.pip_install("--no-deps", *(folder / "wheels").glob("*.whl"))
    return made


@pytest.fixture(scope="module")
def recipes(tmp_path_factory):
    """Two recipes: one with four of the examples at once, one with the fifth."""
    folder = tmp_path_factory.mktemp("recipes")
    save_tokenizer(folder / "base")
    save_llama(folder / "base", tie_word_embeddings=False)
    tasks = ("first", "second")
    common = {
        "base": str(folder / "base"),
        "data": [
            {"path": str(write_rows(folder / f"{task}.jsonl", 20, seed=n)), "task": task, "held_out": 0.2}
            for n, task in enumerate(tasks)
        ],
        "train": {
            "max_steps": 6,
            "batch_size": 4,
            "accumulation": 1,
            "learning_rate": 2e-2,
            "threads": 1,
            "evaluate_base": False,
        },
        "evaluators": ["loss", "calibration"],
    }
    wanted = {
        "four": {
            "derivative": "lora",
            "quantizer": "absmax8",
            "adapter": {"rank": 4},
            "rank_scheduler": {"name": "lisa", "active": 2, "every": 2},
            "loss_combiner": {"name": "dwa", "every": 2},
        },
        "fifth": {"derivative": "qlora", "adapter": {"name": "loftq", "rank": 4}},
    }
    paths = {}
    for name, choices in wanted.items():
        paths[name] = folder / f"{name}.yaml"
        paths[name].write_text(yaml.safe_dump({**common, **choices, "out": str(folder / "runs" / name)}))
    return paths


@pytest.fixture(scope="module")
def trained(environment, recipes):
    """What training and publishing each adapter said, by recipe."""
    lines = []
    for name, recipe in recipes.items():
        adapter = str(recipe.parent / "runs" / name / "adapter")
        lines.append(["train", str(recipe), "--json"])
        lines.append(["push", adapter, f"acme/{name}@1.0.0", "--to", str(recipe.parent / "mirror"), "--json"])
    ran = environment.edgelora(*lines)
    assert [code for code, _, _ in ran] == [0, 0, 0, 0], ran
    return {name: json.loads(ran[2 * i][1])["measurements"] for i, name in enumerate(recipes)}


@pytest.fixture(scope="module")
def gateway(tmp_path_factory, recipes, trained):
    """Another machine, without any third-party plugin: what it says when asked with each pulled adapter."""
    folder = tmp_path_factory.mktemp("gateway")
    machine = Environment(folder / "venv", folder / "home")
    mirror = str(recipes["four"].parent / "mirror")
    pulls = [["pull", f"acme/{name}", "--from", mirror] for name in recipes]
    ran = machine.edgelora(*pulls, *[question(name, recipes) for name in recipes])
    assert [code for code, _, _ in ran[:2]] == [0, 0], ran
    return dict(zip(recipes, ran[2:], strict=True))


def question(name, recipes):
    options = ["--base", str(recipes[name].parent / "base"), "--max-new-tokens", "8", "--json"]
    return ["generate", "--adapter", f"acme/{name}", *options, *PROMPTS]


@pytest.mark.parametrize("folder", FOLDERS, ids=NAMES)
def test_an_example_is_whole_typed_and_says_what_it_is(folder):
    project = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
    module = folder.name.replace("-", "_")
    assert project["name"] == folder.name
    assert list(project["entry-points"]["edgelora"].values()) == [module]
    assert (folder / module / "py.typed").exists()
    assert f"# {folder.name}\n" in (folder / "README.md").read_text()


def line_count(folder):
    """Of packaging, package and tests, blank lines too."""
    files = [folder / "pyproject.toml", *folder.rglob("*.py")]
    return sum(len(file.read_text().splitlines()) for file in files)


@pytest.mark.parametrize(("name", "most"), [("edgelora-loftq", 60), ("edgelora-int8", 80)])
def test_a_whole_distribution_is_short(name, most):
    assert line_count(EXAMPLES / name) <= most


def test_the_guide_names_every_example_with_its_length():
    page = (EXAMPLES.parent / "docs" / "how-to" / "plugin.md").read_text()
    told = dict(re.findall(r"^\| \[(edgelora-\w+)\].*\| (\d+) \|$", page, re.MULTILINE))
    assert told == {folder.name: str(line_count(folder)) for folder in FOLDERS}


def test_there_is_an_example_of_each_kind_and_all_are_ready(environment):
    ((code, out, _),) = environment.edgelora(["plugins", "list", "--json"])
    plugins = {plugin["distribution"]: plugin for plugin in json.loads(out)["plugins"]}
    assert code == 0 and json.loads(out)["warnings"] == []
    assert {plugins[name]["state"] for name in NAMES} == {"ready"}
    kinds = [part["kind"] for name in NAMES for part in plugins[name]["parts"]]
    assert set(kinds) == set(KINDS)


def test_a_pulled_adapter_measures_and_answers_as_it_did_in_training(environment, recipes, trained, gateway):
    mirror = str(recipes["four"].parent / "mirror")
    pulls = [["pull", f"acme/{name}", "--from", mirror] for name in recipes]
    measures = [
        ["evaluate", str(recipe), "--adapter", f"acme/{name}", "--json"] for name, recipe in recipes.items()
    ]
    base = ["evaluate", str(recipes["four"]), "--json"]
    ran = environment.edgelora(*pulls, *measures, base, question("fifth", recipes))
    assert [code for code, _, _ in ran] == [0] * 6, ran
    *again, bare = [json.loads(out)["measurements"] for _, out, _ in ran[2:5]]
    for measured, expected in zip(again, trained.values(), strict=True):
        assert {"first.loss", "second.loss", "first.calibration_error"} <= measured.keys()
        for metric, entry in expected.items():
            assert measured[metric]["value"] == pytest.approx(entry["value"], rel=1e-4), metric
    assert bare["first.loss"]["value"] > 1.05 * again[0]["first.loss"]["value"]
    # LoftQ's change is one low-rank product: a gateway without the plugin that made it computes the same.
    code, out, _ = gateway["fifth"]
    assert code == 0 and json.loads(out)["answers"] == json.loads(ran[5][1])["answers"]


def test_a_gateway_without_the_quantizer_is_told_what_to_install(gateway):
    code, out, err = gateway["four"]
    error = json.loads(out)["error"]
    assert (code, error["id"]) == (7, "plugin-missing")
    assert "needs quantizer 'absmax8' of plugin 'int8', which is not usable here" in err
    assert "pip install 'edgelora-int8>=0.1.0'" in error["fix"]


def test_only_a_few_sites_learned_at_a_time(recipes, trained):
    # Six steps, drawn anew every two: three draws of two of the fourteen sites.
    tensors = load_file(recipes["four"].parent / "runs" / "four" / "adapter" / "edgelora.safetensors")
    starting_at_zero = {name: tensor for name, tensor in tensors.items() if name.endswith("lora_B")}
    learned = [name for name, tensor in starting_at_zero.items() if tensor.any()]
    assert len(starting_at_zero) == 14 and 2 <= len(learned) <= 6


@pytest.mark.parametrize("rank", [1, 8, 16])
def test_loftq_starts_at_the_best_fit_of_what_quantization_lost(monkeypatch, rank):
    monkeypatch.syspath_prepend(str(EXAMPLES / "edgelora-loftq"))
    adapter = importlib.import_module("edgelora_loftq.adapter").LoftqAdapter(AdapterOptions(rank=rank))
    torch.manual_seed(0)
    linear = nn.Linear(64, 16, bias=False)
    nf4 = plan_part(Registry.discover().part("quantizer", "qlora:nf4"), {}).build()
    base = nf4.quantize(linear, "linear")
    site = Site("linear", 0, "linear", rank, alpha=4.0)
    A, B, scaling = adapter.wrap_source(base, site, linear.weight.detach()).factors()
    lost = linear.weight.detach() - base.dequantize()
    left = torch.linalg.svdvals(lost)[rank:].square().sum().sqrt()
    assert torch.allclose((lost - scaling * B @ A).norm(), left, atol=1e-5)
    assert scaling == 4.0 / rank


@pytest.fixture(scope="module")
def new_plugins(environment, tmp_path_factory):
    """A distribution made by ``plugins new`` for each kind, installed editable, its dependencies checked."""
    folder = tmp_path_factory.mktemp("new")
    lines = [
        ["plugins", "new", f"my-{kind}", "--kind", kind, "--out", str(folder / kind), "--json"]
        for kind in (kind.replace("_", "-") for kind in KINDS)
    ]
    ran = environment.edgelora(*lines)
    assert {code for code, _, _ in ran} == {0}, ran
    folders = [json.loads(out)["folder"] for _, out, _ in ran]
    environment.pip_install("--no-build-isolation", *(word for each in folders for word in ("-e", each)))
    return folders


def run_tests(environment, rootdir, folders):
    """Run the tests of distributions as their authors do, without this project's pytest options."""
    options = ["-q", "-c", os.devnull, "-p", "no:cacheprovider", "--import-mode=importlib", "-W", "ignore"]
    done = environment.python("-m", "pytest", *options, "--rootdir", rootdir, *folders)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr


def test_new_plugins_pass_the_conformance_kit_as_they_are_written(environment, new_plugins):
    run_tests(environment, Path(new_plugins[0]).parent, new_plugins)


@pytest.mark.acceptance
def test_the_examples_pass_the_conformance_kit(environment):
    run_tests(environment, EXAMPLES, FOLDERS)
