"""`make quickstart` does the whole job where there is no network, not even a route."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ALONE = ["unshare", "--user", "--map-root-user", "--net"]

pytestmark = pytest.mark.acceptance


def may_unshare() -> bool:
    if not shutil.which("unshare"):
        return False
    return subprocess.run([*ALONE, "true"], capture_output=True, check=False).returncode == 0


@pytest.mark.skipif(not may_unshare(), reason="a network namespace of one's own is not permitted here")
@pytest.mark.skipif(not shutil.which("make"), reason="make is not installed")
def test_make_quickstart_keeps_its_promises_without_a_network(tmp_path):
    interfaces = subprocess.run([*ALONE, "cat", "/proc/net/dev"], capture_output=True, text=True, check=True)
    names = [line.split(":")[0].strip() for line in interfaces.stdout.splitlines() if ":" in line]
    assert names == ["lo"]

    environment = Path(sys.prefix)
    if not (environment / "bin" / "edgelora").exists():
        pytest.skip("edgelora is not installed as a command beside this Python")
    # -o: the environment these tests run in is ready, so nothing is to be installed.
    make = ["make", "-f", str(ROOT / "Makefile"), "quickstart", f"VENV={environment}"]
    started = time.monotonic()
    done = subprocess.run(
        [*ALONE, *make, "-o", f"{environment}/.ready"],
        cwd=tmp_path,
        env={**os.environ, "EDGELORA_HOME": str(tmp_path / "home")},
        capture_output=True,
        text=True,
        check=False,
    )
    print(f"\nmake quickstart: {time.monotonic() - started:.0f} s on {os.cpu_count()} cores")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "7/7" in done.stderr and "reused" not in done.stderr
    assert (tmp_path / "quickstart-out" / "lora" / "adapter" / "edgelora.json").is_file()
