"""`edgelora plugins list` is not much slower than importing what it is built on."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARK = Path(__file__).resolve().parents[2] / "benchmarks" / "plugins_list.py"

pytestmark = pytest.mark.acceptance


def test_plugins_list_takes_at_most_half_as_long_again_as_its_imports(tmp_path):
    out = tmp_path / "plugins_list.json"
    done = subprocess.run(
        [sys.executable, str(BENCHMARK), "--out", str(out)], capture_output=True, text=True, check=False
    )
    assert out.exists(), done.stderr
    result = json.loads(out.read_text(encoding="utf-8"))
    print(f"\n{json.dumps(result, indent=2)}")
    assert result["ratio"] <= 1.5
    assert done.returncode == 0
