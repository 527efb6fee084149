import json
import subprocess
import sys
from pathlib import Path

import pytest
from adapter_folders import write_adapter

HEAVY = ("torch", "numpy", "transformers", "peft", "huggingface_hub", "accelerate", "polars", "bitsandbytes")


def modules_after(arguments: list[str], folder: Path) -> list[str]:
    code = (
        "import json, sys, edgelora_cli\n"
        f"code = edgelora_cli.run_command({arguments!r})\n"
        f"print(json.dumps([code, [name for name in {HEAVY!r} if name in sys.modules]]), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=folder)
    exit_code, heavy = json.loads(done.stderr.splitlines()[-1])
    assert exit_code == 0, done.stderr
    return list(heavy)


@pytest.mark.parametrize(
    "arguments",
    [[], ["--help"], ["--version"], ["plugins", "list"], ["plugins", "show", "qlora"], ["stores", "list"],
     ["recipe", "schema"], ["recipe", "new"], ["list"], ["completion", "zsh"]],
    ids=lambda arguments: "-".join(arguments) or "bare",
)  # fmt: skip
def test_light_commands_import_nothing_heavy(arguments, tmp_path, monkeypatch):
    monkeypatch.setenv("EDGELORA_HOME", str(tmp_path / "home"))
    assert modules_after(arguments, tmp_path) == []


def test_listing_plugins_imports_neither_pydantic_nor_importlib_metadata(tmp_path):
    code = (
        "import sys, edgelora_cli; edgelora_cli.run_command(['plugins', 'list']);"
        "assert not {'pydantic', 'yaml', 'importlib.metadata'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL, cwd=tmp_path)


def test_plan_imports_nothing_heavy(tmp_path):
    (tmp_path / "recipe.yaml").write_text("{derivative: qlora, base: micro}")
    assert modules_after(["plan", "recipe.yaml"], tmp_path) == []


def test_moving_and_checking_adapters_imports_nothing_heavy(tmp_path, monkeypatch):
    monkeypatch.setenv("EDGELORA_HOME", str(tmp_path / "home"))
    write_adapter(tmp_path / "adapter")
    for arguments in (
        ["push", "adapter", "acme/decimals@1.0.0", "--to", "./mirror"],
        ["pull", "acme/decimals", "--from", "./mirror"],
        ["verify", "adapter"],
        ["verify", "acme/decimals"],
        ["conformance", "read", "--kind", "directories", "adapter"],
        ["show", "acme/decimals"],
        ["export", "peft", "adapter", "--out", "for-peft"],
        ["search", "decimals", "--from", "./mirror"],
        ["list"],
        ["bundles", "create", "out.edgelora", "acme/decimals", "--from", "./mirror", "--base", "micro"],
        ["bundles", "show", "out.edgelora"],
        ["bundles", "import", "out.edgelora", "--to", "./other"],
        ["yank", "acme/decimals@1.0.0", "--reason", "wrong", "--from", "./mirror"],
        ["remove", "acme/decimals", "--yes"],
    ):
        assert modules_after(arguments, tmp_path) == [], arguments


def test_looking_at_prepared_bases_imports_nothing_heavy(tmp_path, monkeypatch):
    monkeypatch.setenv("EDGELORA_HOME", str(tmp_path / "home"))
    command = [sys.executable, "-m", "edgelora_cli", "bases", "prepare", "micro", "--quantizer", "nf4"]
    subprocess.run(command, check=True, cwd=tmp_path, stdout=subprocess.DEVNULL)
    for arguments in (
        ["bases", "list"],
        ["bases", "show", "micro-nf4"],
        ["bases", "show", "micro"],
        ["bases", "verify", "micro-nf4"],
    ):
        assert modules_after(arguments, tmp_path) == [], arguments
