"""A real two-layer model with a real byte-level tokenizer, and rows to train it on."""

import json

import pytest
import torch
from safetensors.torch import save_file
from tiny_models import save_llama, save_tokenizer, write_rows

from edgelora.plan import make_plan
from edgelora.recipe import make_recipe
from edgelora.registry import Registry


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny-base")
    save_tokenizer(folder)
    save_llama(folder)
    return folder


@pytest.fixture(scope="session")
def rows(tmp_path_factory):
    """200 alpaca rows of unequal length."""
    return write_rows(tmp_path_factory.mktemp("data") / "train.jsonl", 200)


@pytest.fixture(scope="session")
def registry():
    return Registry.discover()


@pytest.fixture
def recipe(tiny_base, rows, tmp_path):
    """A function that makes a recipe: keywords replace its keys, ``train`` is merged."""

    def make(train=None, **changes):
        settings = {"max_steps": 6, "batch_size": 2, "accumulation": 2, "learning_rate": 1e-2, "threads": 1}
        document = {
            "derivative": "lora",
            "base": str(tiny_base),
            "adapter": {"rank": 4},
            "data": [{"path": str(rows), "held_out": 0.1}],
            "out": str(tmp_path / "run"),
            "train": settings | (train or {}),
        }
        return make_recipe(document | changes)

    return make


@pytest.fixture
def plan(recipe, registry):
    """A function that makes a plan of a recipe's changes."""
    return lambda *args, **changes: make_plan(recipe(*args, **changes), registry)


@pytest.fixture(scope="session")
def small_peft(tiny_base, tmp_path_factory):
    """A LoRA beside one linear, as PEFT saves it."""
    folder = tmp_path_factory.mktemp("peft") / "small"
    folder.mkdir()
    width = json.loads((tiny_base / "config.json").read_text())["hidden_size"]
    site = "base_model.model.model.layers.0.self_attn.q_proj"
    numbers = torch.Generator().manual_seed(0)
    tensors = {
        f"{site}.lora_A.weight": torch.randn(2, width, generator=numbers),
        f"{site}.lora_B.weight": torch.randn(width, 2, generator=numbers),
    }
    save_file(tensors, folder / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "base_model_name_or_path": str(tiny_base), "r": 2, "lora_alpha": 4}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder
