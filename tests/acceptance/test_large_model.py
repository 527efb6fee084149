"""A model of more than 100 M parameters goes through the command line in four bits."""

import json
import random
import subprocess
import sys

import pytest
from tiny_models import save_llama
from tokenizers import ByteLevelBPETokenizer

GIB = 2**30
SIZES = {
    "vocab_size": 8192,
    "hidden_size": 768,
    "intermediate_size": 2048,
    "num_hidden_layers": 14,
    "num_attention_heads": 12,
    "num_key_value_heads": 12,
    "max_position_embeddings": 2048,
    "initializer_range": 0.02,
}

RECIPE = """
derivative: qlora
base: {base}
adapter: {{rank: 16, alpha: 16}}
data: [{{path: {rows}, held_out: 0.01}}]
train: {{max_steps: 20, batch_size: 2, accumulation: 2, learning_rate: 2.0e-4, max_length: 512,
         dtype: bfloat16, gradient_checkpointing: true}}
out: {out}
"""

LOAD = """
import sys
from pathlib import Path
from edgelora.engine.base import load_base
from edgelora.engine.memory import peaks, reset_peaks
from edgelora.plan import make_plan
from edgelora.recipe import read_recipe
from edgelora.registry import Registry
plan = make_plan(read_recipe(Path(sys.argv[1])), Registry.discover())
reset_peaks()
before = peaks()["rss"]
load_base(plan)
print(before, peaks()["rss"])
"""

WORDS = ("pump", "valve", "sensor", "reads", "bar", "alarm", "open", "close", "gateway", "pressure", "the")


def sentence(draw, low, high):
    return " ".join(
        draw.choice(WORDS) + draw.choice(["", "", str(draw.randint(0, 999))])
        for _ in range(draw.randint(low, high))
    )


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    from transformers import PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("large")
    draw = random.Random(0)
    rows = folder / "alpaca.jsonl"
    with rows.open("w") as file:
        for _ in range(2200):
            row = {"instruction": sentence(draw, 5, 30), "input": "", "output": sentence(draw, 5, 60)}
            file.write(json.dumps(row) + "\n")
    bpe = ByteLevelBPETokenizer()
    bpe.train([str(rows)], vocab_size=8192, special_tokens=["<s>", "</s>", "<pad>"], show_progress=False)
    base = folder / "base"
    PreTrainedTokenizerFast(
        tokenizer_object=bpe._tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    ).save_pretrained(base)
    save_llama(base, dtype="bfloat16", **SIZES)
    recipe = folder / "recipe.yaml"
    recipe.write_text(RECIPE.format(base=base, rows=rows, out=folder / "run"))
    return folder


@pytest.mark.acceptance
def test_loading_peaks_below_the_sixteen_bit_size_plus_a_gibibyte(inputs):
    size = (inputs / "base" / "model.safetensors").stat().st_size
    assert size > 200e6
    done = subprocess.run(
        [sys.executable, "-c", LOAD, str(inputs / "recipe.yaml")], capture_output=True, text=True, check=True
    )
    before, peak = map(int, done.stdout.split())
    print(f"16-bit size {size / GIB:.2f} GiB, before loading {before / GIB:.2f}, peak {peak / GIB:.2f} GiB")
    assert peak < size + GIB


@pytest.mark.acceptance
def test_twenty_steps_of_qlora_run_through_the_command_line(inputs):
    command = [sys.executable, "-m", "edgelora_cli", "train", str(inputs / "recipe.yaml"), "--json"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    lines = [json.loads(line) for line in (inputs / "run" / "metrics.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines if "loss" in line]
    print(
        f"loss {losses[0]:.3f} -> {losses[-1]:.3f}, peak {lines[-1]['peak_bytes']['rss'] / GIB:.2f} GiB, "
        f"{lines[-1]['tokens_per_second']:.0f} tokens/s"
    )
    assert len(losses) == 20
    assert losses[-1] < losses[0]
    check = [sys.executable, "-m", "edgelora_cli", "verify", str(inputs / "run" / "adapter")]
    assert subprocess.run(check, capture_output=True).returncode == 0
