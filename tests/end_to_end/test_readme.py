"""Every command of the README is run, in order, in an empty folder, as a reader would."""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BLOCK = re.compile(r"^```(?:bash|console)\n(.*?)^```", re.MULTILINE | re.DOTALL)
# Blocks that train, install or package take minutes or a network; tests of their own run what they promise.
TESTED_ELSEWHERE = {
    "make quickstart": (
        "tests/acceptance/test_make_quickstart.py",
        "test_make_quickstart_keeps_its_promises_without_a_network",
    ),
    "make offline-kit": ("tests/tools/test_offline_kit.py", "test_every_wheel_is_listed_with_its_digest"),
    "edgelora quickstart": ("tests/end_to_end/test_quickstart.py", "test_it_ends_with_the_promises_kept"),
    "sh offline-kit/install.sh": (
        "tests/tools/test_offline_kit.py",
        "test_the_installer_installs_from_the_folder_alone",
    ),
}


def blocks() -> list[str]:
    return BLOCK.findall((ROOT / "README.md").read_text(encoding="utf-8"))


def elsewhere(block: str) -> str | None:
    """The command of ``TESTED_ELSEWHERE`` that a block of one line is."""
    lines = block.strip().splitlines()
    return next((start for start in TESTED_ELSEWHERE if len(lines) == 1 and lines[0].startswith(start)), None)


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    folder = tmp_path_factory.mktemp("readme")
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "EDGELORA_HOME": str(folder / "home"), "OMP_NUM_THREADS": "1"}
    return folder, environment


@pytest.mark.parametrize("block", blocks(), ids=lambda block: block.splitlines()[0][:40])
def test_each_block_of_commands_works(block, reader):
    folder, environment = reader
    if elsewhere(block):
        if block.startswith("make "):
            dry = block.replace("make ", f"make -n -C {ROOT} ")
            done = subprocess.run(["bash", "-ec", dry], capture_output=True, text=True)
            assert done.returncode == 0, done.stderr
        return
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", block], cwd=folder, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, f"{block}\n{done.stdout}{done.stderr}"


@pytest.mark.parametrize("command", TESTED_ELSEWHERE)
def test_what_is_not_run_here_is_in_the_readme_and_has_a_test_of_its_own(command):
    assert command in [elsewhere(block) for block in blocks()]
    file, name = TESTED_ELSEWHERE[command]
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    assert name in [node.name for node in tree.body if isinstance(node, ast.FunctionDef)]


def test_every_link_to_a_file_leads_somewhere():
    for page in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]:
        for target in re.findall(r"\]\((?!https?://|#)([^)#]+)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name}: {target}"
