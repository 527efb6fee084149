"""Every command of the README is run, in order, in an empty folder, as a reader would."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BLOCK = re.compile(r"^```(?:bash|console)\n(.*?)^```", re.MULTILINE | re.DOTALL)
SLOW = {"edgelora quickstart": "tests/end_to_end/test_quickstart.py"}
NEEDS_A_KIT = re.compile(r"sh offline-kit/install\.sh .*")


def blocks() -> list[str]:
    return BLOCK.findall((ROOT / "README.md").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    folder = tmp_path_factory.mktemp("readme")
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "EDGELORA_HOME": str(folder / "home"), "OMP_NUM_THREADS": "1"}
    return folder, environment


@pytest.mark.parametrize("block", blocks(), ids=lambda block: block.splitlines()[0][:40])
def test_each_block_of_commands_works(block, reader):
    folder, environment = reader
    if block.startswith("make "):
        # The recipe of a target is what is checked here; running it installs packages.
        done = subprocess.run(
            ["bash", "-ec", block.replace("make ", f"make -n -C {ROOT} ")], capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        return
    if NEEDS_A_KIT.fullmatch(block.strip()):
        assert (ROOT / "tools" / "install.sh").exists()  # tests/tools/test_offline_kit.py runs it
        return
    if block.strip() in SLOW:
        assert (ROOT / SLOW[block.strip()]).exists()
        return
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", block], cwd=folder, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, f"{block}\n{done.stdout}{done.stderr}"


def test_every_link_to_a_file_leads_somewhere():
    for page in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]:
        for target in re.findall(r"\]\((?!https?://|#)([^)#]+)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name}: {target}"
