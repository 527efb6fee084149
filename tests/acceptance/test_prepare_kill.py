"""Preparing a base is killed at random moments, runs out of disk, and never needs the memory of the model."""

from __future__ import annotations

import json
import os
import random
import re
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
from tiny_models import save_llama, save_tokenizer

from edgelora.engine.preparing import prepare_base
from edgelora.errors import DiskFull
from edgelora.manifest.base_identity import identify_base
from edgelora.plan.part import plan_part
from edgelora.prepared import prepared_base
from edgelora.registry import Registry
from edgelora.transfer import Progress

_ROUNDS = int(os.environ.get("EDGELORA_ROUNDS", "20"))


def prepare(work: Path, *arguments: str) -> list[str]:
    command = [sys.executable, "-m", "edgelora_cli", "bases", "prepare", str(work / "base")]
    return [*command, "--quantizer", "nf4", *arguments]


@pytest.mark.parametrize("rounds", [2, pytest.param(_ROUNDS, marks=pytest.mark.acceptance, id="all")])
def test_a_killed_preparation_shows_nothing_and_the_next_one_goes_on(tmp_path: Path, rounds: int) -> None:
    save_tokenizer(tmp_path / "base")
    save_llama(tmp_path / "base", hidden_size=256, intermediate_size=512, num_hidden_layers=12)
    whole = tmp_path / "whole"
    start = time.monotonic()
    subprocess.run(prepare(tmp_path, "--out", str(whole)), check=True, stdout=subprocess.DEVNULL)
    longest_s = time.monotonic() - start
    rng, expected = random.Random(7), prepared_base(whole)
    out, killed, reused = tmp_path / "out", 0, 0
    staging = tmp_path / ".out.preparing"
    for _ in range(rounds):
        process = subprocess.Popen(prepare(tmp_path, "--out", str(out)), stderr=subprocess.DEVNULL)
        # From the first shard on, or only the imports would be hit.
        while process.poll() is None and not staging.exists():
            time.sleep(0.005)
        time.sleep(rng.uniform(0, longest_s / 10))
        process.kill()
        killed += process.wait() != 0
        assert not out.exists() or prepared_base(out) == expected
    again = subprocess.run(
        prepare(tmp_path, "--out", str(out), "--json", *(["--overwrite"] if out.exists() else [])),
        check=True,
        capture_output=True,
        text=True,
    )
    reused = json.loads(again.stdout)["reused_shards"]
    assert prepared_base(out) == expected
    assert not staging.exists()
    assert killed
    if rounds > 10 and killed == rounds:
        assert reused, "no try had finished a shard before it was killed"


@pytest.fixture
def small_disk(tmp_path):
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("mounting a small tmpfs needs root")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.acceptance
def test_a_full_disk_keeps_what_is_finished(small_disk: Path, tmp_path: Path) -> None:
    save_tokenizer(tmp_path / "base")
    save_llama(tmp_path / "base", hidden_size=128, intermediate_size=256, num_hidden_layers=12)
    part = plan_part(Registry.discover().part("quantizer", "nf4"), {})
    filler = small_disk / "filler"

    def fill(progress: Progress) -> None:
        # There was room when it began; somebody else takes it halfway.
        if progress.done_bytes > progress.total_bytes / 2 and not filler.exists():
            with suppress(OSError), open(filler, "wb", buffering=0) as file:
                while file.write(bytes(4096)):
                    pass

    with pytest.raises(DiskFull, match="no space left while writing") as caught:
        prepare_base(tmp_path / "base", small_disk / "out", part, on_progress=fill)
    assert "repeat the command: it continues" in caught.value.fix
    assert not (small_disk / "out").exists()
    filler.unlink()
    again = prepare_base(tmp_path / "base", small_disk / "out", part)
    assert again.reused_shards > 3
    assert identify_base(small_disk / "out") == identify_base(tmp_path / "base")


_CHILD = """
import re, sys
from pathlib import Path
from edgelora import micro
from edgelora.engine.preparing import prepare_base
from edgelora.plan.part import plan_part
from edgelora.registry import Registry
import torch
torch.set_num_threads(1)
part = plan_part(Registry.discover().part("quantizer", sys.argv[2]), {})
# What is imported on the way, and a linear's worth of kernels, is not what is measured.
prepare_base(micro.path(), Path(sys.argv[3] + "-micro"), part)
def resident(name):
    return int(re.search(rf"{name}:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024
Path("/proc/self/clear_refs").write_text("5")
before = resident("VmRSS")
prepare_base(Path(sys.argv[1]), Path(sys.argv[3]), part)
print(resident("VmHWM") - before)
"""


@pytest.mark.acceptance
@pytest.mark.parametrize(("quantizer", "linears"), [("nf4", 3), ("int8", 3)])
def test_preparing_needs_the_memory_of_a_linear_not_of_the_model(
    tmp_path: Path, quantizer: str, linears: int
) -> None:
    """A model of 590 MB whose largest linear takes 12 MB and whose embeddings take 131."""
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {"vocab_size": 64_000, "hidden_size": 1024, "intermediate_size": 6144, "num_hidden_layers": 8}
    heads = {"num_attention_heads": 8, "num_key_value_heads": 8, "tie_word_embeddings": False}
    save_tokenizer(tmp_path / "base")
    model = LlamaForCausalLM(LlamaConfig(**sizes, **heads)).bfloat16()
    model.save_pretrained(tmp_path / "base")
    del model
    largest_bytes = 2 * 1024 * 6144
    total = sum(file.stat().st_size for file in (tmp_path / "base").glob("*.safetensors"))
    grown = subprocess.run(
        [sys.executable, "-c", _CHILD, str(tmp_path / "base"), quantizer, str(tmp_path / "out")],
        check=True,
        capture_output=True,
        text=True,
    )
    peak = int(re.findall(r"\d+", grown.stdout)[-1])
    print(f"{quantizer}: {total / 1e6:.0f} MB of model, grew by {peak / 1e6:.0f} MB")
    assert peak < linears * largest_bytes + 64 * 2**20 < total / 4
