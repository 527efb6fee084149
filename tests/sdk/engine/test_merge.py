"""A merged model computes what the adapter computed, in the dtype asked for and the memory of one model."""

import json
import weakref

import pytest
import torch
from safetensors.torch import load_file
from tiny_models import save_llama, save_tokenizer
from transformers import AutoModelForCausalLM

from edgelora.engine import merge as merging
from edgelora.engine.base import load_base
from edgelora.engine.merge import load_to_merge, merge
from edgelora.errors import TargetExists
from edgelora.layers import FrozenLinear
from edgelora.layers.mapped import MappedEmbedding, MappedLinear
from edgelora.run import run

PROBE = torch.arange(40).view(2, 20)
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@pytest.fixture(scope="module")
def bases(tiny_base, tmp_path_factory):
    """One stored in float32, and one in bfloat16 with a head of its own."""
    half = tmp_path_factory.mktemp("half-base")
    save_tokenizer(half)
    save_llama(half, dtype="bfloat16", tie_word_embeddings=False)
    return {"float32": tiny_base, "bfloat16": half}


@pytest.fixture(scope="module")
def adapters(bases, rows, registry, tmp_path_factory):
    from edgelora.recipe import make_recipe

    folder = tmp_path_factory.mktemp("adapters")
    settings = {"max_steps": 3, "batch_size": 4, "accumulation": 1, "learning_rate": 1e-2, "threads": 1}

    def train(name, derivative, base):
        document = {"derivative": derivative, "base": str(base), "data": [{"path": str(rows)}]}
        document |= {"train": settings | {"dtype": "float32"}, "evaluators": [], "out": str(folder / name)}
        return run(make_recipe(document), registry).folder

    return {
        "lora": (train("lora", "lora", bases["float32"]), bases["float32"]),
        "qlora": (train("qlora", "qlora", bases["float32"]), bases["float32"]),
        "half": (train("half", "lora", bases["bfloat16"]), bases["bfloat16"]),
    }


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["lora", "qlora", "half"])
def test_each_weight_is_rounded_once(adapters, registry, tmp_path, name, dtype):
    folder, base = adapters[name]
    adapted = load_to_merge(str(folder), registry, base=str(base))
    weights = dict(load_base(adapted.plan).named_modules())
    site = "model.layers.1.mlp.up_proj"
    A, B, scaling = adapted.layers[site].factors()
    exact = weights[site].dequantize(dtype=torch.float32) + scaling * (B @ A)
    untouched = load_base(adapted.plan).get_input_embeddings().weight
    done = merge(adapted, tmp_path / "merged", DTYPES[dtype])
    tensors = load_file(done.folder / "model.safetensors")
    assert {tensor.dtype for tensor in tensors.values()} == {DTYPES[dtype]}
    torch.testing.assert_close(tensors[f"{site}.weight"], exact.to(DTYPES[dtype]), rtol=0, atol=1e-6)
    assert torch.equal(tensors["model.embed_tokens.weight"], untouched.to(DTYPES[dtype]))
    assert json.loads((done.folder / "config.json").read_text())["dtype"] == dtype
    assert done.quantizer == ("nf4" if name == "qlora" else None)


def test_an_unquantized_base_stays_in_its_files(adapters, registry):
    folder, base = adapters["half"]
    adapted = load_to_merge(str(folder), registry, base=str(base))
    sites = [
        next(m for m in layer.modules() if isinstance(m, FrozenLinear)) for layer in adapted.layers.values()
    ]
    assert {site.weight.dtype for site in sites} == {torch.bfloat16}
    assert isinstance(adapted.model.get_output_embeddings(), MappedLinear)
    assert isinstance(adapted.model.get_input_embeddings(), MappedEmbedding)


def test_a_merged_layer_leaves_nothing_of_itself_behind(adapters, registry, tmp_path, monkeypatch):
    folder, base = adapters["lora"]
    adapted = load_to_merge(str(folder), registry, base=str(base))
    seen, alive = [], []
    fold = merging.merge_into

    def watched(layer, weight, name):
        alive.append(sum(each() is not None for each in seen))
        seen.append(weakref.ref(layer))
        return fold(layer, weight, name)

    monkeypatch.setattr(merging, "merge_into", watched)
    merge(adapted, tmp_path / "merged")
    assert max(alive) == 0
    assert not any(isinstance(module, FrozenLinear) for module in adapted.model.modules())


def test_what_transformers_renames_while_it_loads_is_merged_from_memory(
    adapters, registry, tmp_path, monkeypatch
):
    from edgelora.errors import ModelError

    def refuse(*_):
        raise ModelError("it cannot be streamed", fix="set train.streamed to false")

    monkeypatch.setattr("edgelora.engine.base.load_streamed", refuse)
    folder, base = adapters["lora"]
    adapted = load_to_merge(str(folder), registry, base=str(base))
    expected = adapted.model(PROBE).logits
    done = merge(adapted, tmp_path / "merged")
    plain = AutoModelForCausalLM.from_pretrained(done.folder)
    torch.testing.assert_close(plain(PROBE).logits, expected, rtol=0, atol=1e-4)


def test_a_folder_that_appears_meanwhile_is_left_alone(adapters, registry, tmp_path, monkeypatch):
    folder, base = adapters["lora"]
    adapted = load_to_merge(str(folder), registry, base=str(base))
    (tmp_path / "merged").mkdir()
    (tmp_path / "merged" / "mine").write_text("mine")
    with pytest.raises(TargetExists):
        merge(adapted, tmp_path / "merged")
    assert (tmp_path / "merged" / "mine").read_text() == "mine"
