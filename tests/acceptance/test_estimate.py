"""Predicted memory against what a real step takes, in processes that hold nothing else."""

import json
import subprocess
import sys

import pytest


@pytest.mark.acceptance
@pytest.mark.parametrize("derivative", ["lora", "qlora", "full"])
@pytest.mark.parametrize("checkpointing", ["true", "false"])
def test_the_predicted_peak_is_within_a_tenth_of_the_measured_one(tmp_path, derivative, checkpointing):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        f"{{base: micro, derivative: {derivative}, train: {{batch_size: 16, max_length: 256, "
        f"accumulation: 1, threads: 1, gradient_checkpointing: {checkpointing}}}}}"
    )
    command = [sys.executable, "-m", "edgelora_cli", "estimate", str(recipe), "--measure", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    document = json.loads(done.stdout)
    assert document["memory"][0]["peak"] == pytest.approx(document["measured"]["peak"], rel=0.1)
