"""Files of a bare backbone, whose names leave out the prefix, are read as those of the whole model are."""

import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import save_llama, save_tokenizer

from edgelora.engine.bare_names import model_names
from edgelora.engine.base import read_config
from edgelora.engine.mapped.loading import load_mapped
from edgelora.engine.preparing.source import SourceModel
from edgelora.engine.source import SourceWeights
from edgelora.layers import FrozenLinear

LINEAR = "model.layers.1.mlp.up_proj"


@pytest.fixture(params=["whole", "bare"])
def folder(request, tmp_path):
    """Of a model whose head is tied, so that a bare backbone is all of it."""
    save_tokenizer(tmp_path / "whole")
    save_llama(tmp_path / "whole")
    if request.param == "bare":
        shutil.copytree(tmp_path / "whole", tmp_path / "bare")
        path = tmp_path / "bare" / "model.safetensors"
        tensors = {name.removeprefix("model."): tensor for name, tensor in load_file(path).items()}
        save_file(tensors, path, {"format": "pt"})
    return tmp_path / request.param


def restore(tensors, name, linear):
    return FrozenLinear(tensors["weight"], None, linear.in_features, linear.out_features)


def test_every_reader_finds_the_same_weight(folder):
    expected = load_file(folder.parent / "whole" / "model.safetensors")[f"{LINEAR}.weight"]
    mapped = load_mapped(
        folder, read_config(folder), restore, skip_modules=(), dtype=torch.float32, gives_back=False
    )
    assert torch.equal(mapped.model.get_submodule(LINEAR).weight, expected)
    assert torch.equal(SourceModel(folder).linear(LINEAR).weight, expected)
    assert torch.equal(SourceWeights(folder)(LINEAR), expected)


def test_a_head_beside_a_whole_model_keeps_its_name():
    names = ["model.norm.weight", "lm_head.weight"]
    assert model_names(names, "model") == {name: name for name in names}
    assert model_names(["norm.weight"], "model") == {"model.norm.weight": "norm.weight"}
