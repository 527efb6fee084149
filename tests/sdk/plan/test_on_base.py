"""What a plan says of its base, held against the names and shapes in its files."""

import json
from dataclasses import replace

import numpy
import pytest
from safetensors.numpy import save_file
from tiny_models import write_rows

from edgelora import AdapterOptions
from edgelora.errors import PlanError
from edgelora.plan import make_plan
from edgelora.recipe import make_recipe
from edgelora.registry import Registry

REGISTRY = Registry.discover()
SHAPES = {
    "model.embed_tokens.weight": (40, 8),
    "model.layers.0.self_attn.q_proj.weight": (40, 8),
    "model.layers.0.mlp.down_proj.weight": (8, 16),
    "model.norm.weight": (8,),
    "lm_head.weight": (40, 8),
}


@pytest.fixture
def base(tmp_path):
    folder = tmp_path / "base"
    folder.mkdir()
    save_file({name: numpy.zeros(shape) for name, shape in SHAPES.items()}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", "vocab_size": 40}))
    return folder


@pytest.fixture
def plan(base, tmp_path):
    def make(derivative, targets, **changes):
        document = {
            "derivative": derivative,
            "base": str(base),
            "adapter": {"target_modules": targets},
            "data": [{"path": str(write_rows(tmp_path / "rows.jsonl", 4))}],
        }
        return make_plan(make_recipe(document | changes), REGISTRY)

    return make


@pytest.mark.parametrize("target", ["embed_tokens", "model.embed_tokens", "lm_head"])
def test_what_has_a_row_for_each_token_is_refused_to_adapters_of_linears(plan, target):
    with pytest.raises(PlanError, match=f"{target}, an embedding or the output head, and adapter 'dora'"):
        plan("dora", ["q_proj", target])


def test_a_linear_as_wide_as_the_vocabulary_is_none(plan):
    assert plan("dora", ["q_proj"]).notes == ()


def test_adapters_that_wrap_embeddings_are_given_them(plan):
    assert plan("lora", ["q_proj", "embed_tokens"]).notes == ()


def test_names_that_no_tensor_bears_are_told(plan):
    made = plan("lora", ["q_prj", "layers.0.mlp.down_proj"], skip_modules=["gate"])
    assert made.notes == (
        "skip_modules: no tensor of the base is of a 'gate'",
        "adapter.target_modules: no tensor of the base is of a 'q_prj'; did you mean 'q_proj'?",
    )


def test_a_list_of_modules_may_be_left_open(plan):
    class Open(AdapterOptions):
        exclude_modules: list[str] | None = None

    made = plan("lora", ["q_proj"])
    parts = dict(made.parts) | {"adapter": replace(made.parts["adapter"], options=Open())}
    assert replace(made, parts=parts).notes == ()


def test_a_base_that_is_not_in_a_folder_is_left_to_training(plan):
    made = plan("dora", ["embed_tokens", "q_prj"], base="OWNER/NAME")
    assert made.notes == ()
    assert "left to train   whether OWNER/NAME is on this machine, that the base loads" in made.describe()


def test_files_that_cannot_be_read_are_left_to_training(plan, base):
    (base / "model.safetensors").write_bytes(b"no tensors")
    assert plan("dora", ["embed_tokens"]).notes == ()
