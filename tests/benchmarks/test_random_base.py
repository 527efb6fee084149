"""A base made for a benchmark is one the engine trains on."""

import pytest
import torch

from edgelora.engine.base import load_base
from edgelora.plan import make_plan
from edgelora.recipe import make_recipe
from edgelora.registry import Registry
from harness import Arm, peak, run_arm
from harness.random_base import NoSpace, random_base, random_codes
from harness.shapes import LLAMA_8B, QWEN_05B, Shape
from harness.training import train_steps

SIZES = {
    "vocab_size": 512,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
LLAMA = Shape("A tiny llama", LLAMA_8B.config | SIZES)
QWEN = Shape("A tiny qwen, tied", QWEN_05B.config | SIZES)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return random_base(LLAMA, tmp_path_factory.mktemp("bases"))


def loaded(folder):
    return load_base(
        make_plan(make_recipe({"derivative": "qlora", "base": str(folder)}), Registry.discover())
    )


def test_every_block_is_its_own_and_of_the_spread_of_trained_weights(base):
    blocks = [block.mlp.up_proj.dequantize(dtype=torch.float32) for block in loaded(base).model.layers]
    assert len({weight.sum().item() for weight in blocks}) == 3
    assert all(abs(weight.std().item() - 0.02) < 0.004 for weight in blocks)


def test_a_tied_head_and_biases_have_their_place(tmp_path):
    model = loaded(random_base(QWEN, tmp_path))
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    assert model.model.layers[0].self_attn.q_proj.bias is not None


def test_a_base_that_is_there_is_used_again(base):
    before = {path.name: path.stat().st_mtime_ns for path in base.iterdir()}
    assert random_base(LLAMA, base.parent) == base
    assert {path.name: path.stat().st_mtime_ns for path in base.iterdir()} == before


def test_a_disk_that_is_too_small_is_told_before_anything_is_written(tmp_path):
    huge = Shape("Huge", LLAMA.config | {"vocab_size": 2**40})
    with pytest.raises(NoSpace, match="GB are needed"):
        random_base(huge, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_the_codes_of_a_linear_follow_from_its_name():
    first, again, other = (random_codes(name, 64, 64)["codes"] for name in ("a", "a", "b"))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_steps_of_the_engine_are_measured_one_by_one(base):
    changes = {"adapter": {"rank": 4}, "train": {"streamed": True, "threads": 1}}
    settings = {"base": str(base), "sequence_length": 16, "steps": 2, "changes": changes}
    run = run_arm(Arm("tiny", train_steps, settings))
    assert list(run["phases"]) == ["imports", "loading", "step 0", "step 1", "checkpoint"]
    assert len(run["result"]["losses"]) == 2
    assert run["result"]["dtypes"] == {"computed in": "bfloat16", "adapter": "torch.bfloat16"}
    assert peak(run, "rss") >= peak(run, "anon") > run["result"]["imported"]["anon"] > 0
