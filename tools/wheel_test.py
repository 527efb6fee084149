"""Install the wheel without the ``train`` extra in a clean environment and run the light commands from it."""

from __future__ import annotations

import argparse
import json
import os
import runpy
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
HEAVY = ("torch", "numpy", "transformers", "peft", "accelerate", "polars", "bitsandbytes")
PLUGINS = {"baseline", "litmus", "lora", "qlora"}


def main() -> None:
    """Run every check; the first that fails ends the process with its output."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("wheel", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        light = LightInstall(Path(scratch), arguments.wheel.resolve())
        light.has_nothing_heavy()
        light.runs_its_commands()
        light.asks_for_the_extra_when_it_is_needed()
        light.ships()
    print("wheel: the light commands work from it")


class LightInstall:
    """The wheel in a virtual environment of its own, with its own home."""

    def __init__(self, scratch: Path, wheel: Path) -> None:
        self.scratch = scratch
        venv.create(scratch / "venv", with_pip=True, symlinks=True)
        self.bin = scratch / "venv" / "bin"
        kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        self.environment = {**kept, "EDGELORA_HOME": str(scratch / "home"), "PYTHONNOUSERSITE": "1"}
        constraints = ROOT / "constraints.txt"
        pip = [str(self.bin / "python"), "-m", "pip", "install", "--quiet", "-c", str(constraints)]
        subprocess.run([*pip, str(wheel)], check=True, env=self.environment)

    def run(self, *arguments: str, expect: int = 0) -> str:
        """Run ``edgelora`` away from the checkout and return its stdout."""
        done = subprocess.run(
            [str(self.bin / "edgelora"), *arguments],
            env=self.environment,
            cwd=self.scratch,
            capture_output=True,
            text=True,
        )
        if done.returncode != expect:
            sys.exit(
                f"edgelora {' '.join(arguments)}: exit {done.returncode}, not {expect}\n"
                f"{done.stdout}{done.stderr}"
            )
        return done.stdout

    def has_nothing_heavy(self) -> None:
        """The core dependencies alone bring no array library."""
        probe = f"import importlib.util as u; print([n for n in {HEAVY!r} if u.find_spec(n)])"
        found = subprocess.run(
            [str(self.bin / "python"), "-c", probe], capture_output=True, text=True, check=True
        )
        if found.stdout.strip() != "[]":
            sys.exit(f"the wheel without extras brought {found.stdout.strip()}")

    def runs_its_commands(self) -> None:
        """Every command that needs no torch."""
        self.run("--version")
        self.run("--help")
        self.run()
        listed = json.loads(self.run("plugins", "list", "--json"))["plugins"]
        ready = {plugin["name"] for plugin in listed if plugin["state"] == "ready"}
        if not ready >= PLUGINS:
            sys.exit(f"plugins that did not load: {sorted(PLUGINS - ready)}")
        self.run("plugins", "show", "qlora")
        self.run("stores", "list")
        json.loads(self.run("recipe", "schema"))
        self.run("recipe", "new", "recipe.yaml")
        (self.scratch / "train.jsonl").write_text('{"prompt": "1, 2", "completion": "3"}\n', encoding="utf-8")
        self.run("plan", "recipe.yaml")
        self.run("doctor")

    def asks_for_the_extra_when_it_is_needed(self) -> None:
        """Training is refused as incompatible, with the command to type, not with a traceback."""
        error = json.loads(self.run("train", "recipe.yaml", "--json", expect=7))["error"]
        if error["id"] != "dependency-missing" or "pip install" not in error["fix"]:
            sys.exit(f"train without the extra: {error}")

    def ships(self) -> None:
        """Push an adapter written by hand to a directory mirror, pull it, check it, remove it."""
        written = runpy.run_path(str(ROOT / "tests" / "fixtures" / "adapter_folders.py"))
        adapter = written["write_adapter"](self.scratch / "adapter")
        mirror = (self.scratch / "mirror").as_uri()
        self.run("push", str(adapter), "wheel/adapter@1.0.0", "--to", mirror)
        self.run("pull", f"{mirror}#wheel/adapter@1.0.0")
        self.run("verify", "wheel/adapter@1.0.0")
        self.run("show", "wheel/adapter@1.0.0")
        self.run("search", "adapter", "--from", mirror)
        self.run("remove", "wheel/adapter@1.0.0", "--yes")
        self.run("verify", "wheel/adapter@1.0.0", expect=4)


if __name__ == "__main__":
    main()
