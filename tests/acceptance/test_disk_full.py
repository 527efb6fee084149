"""A disk that really fills up while training."""

import os
import subprocess
import sys

import pytest
from tiny_models import save_llama, save_tokenizer, write_rows

RECIPE = """
derivative: lora
base: {base}
adapter: {{rank: 4}}
data: [{{path: {rows}}}]
train: {{max_steps: 20, batch_size: 2, accumulation: 2, learning_rate: 1.0e-2, threads: 1, save_every: 1,
         keep_checkpoints: 99}}
out: {out}
"""


@pytest.fixture
def small_disk(tmp_path):
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("mounting a small tmpfs needs root")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.acceptance
def test_a_full_disk_stops_the_run_and_it_goes_on_when_there_is_space(small_disk, tmp_path):
    save_tokenizer(tmp_path / "base")
    save_llama(tmp_path / "base")
    rows = write_rows(tmp_path / "train.jsonl", 200)
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(RECIPE.format(base=tmp_path / "base", rows=rows, out=small_disk / "run"))
    command = [sys.executable, "-m", "edgelora_cli", "train", str(recipe)]
    full = subprocess.run(command, capture_output=True, text=True)
    assert full.returncode == 8
    assert "error[disk-full]: no space left while writing" in full.stderr
    checkpoints = sorted((small_disk / "run" / "checkpoints").iterdir())
    assert all(path.name.startswith("step-") for path in checkpoints)
    for path in checkpoints[:-1]:
        path.unlink()
    resumed = subprocess.run(
        [*command, "--resume", "--set", "train.keep_checkpoints=1"], capture_output=True, text=True
    )
    assert resumed.returncode == 0, resumed.stderr
