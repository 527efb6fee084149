"""What lies in a prepared base is held against what its quantizer keeps before anything computes with it."""

import hashlib
import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from edgelora.engine.base import load_base
from edgelora.engine.estimating.shape_model import read_config
from edgelora.engine.mapped.loading import load_mapped
from edgelora.engine.mapped.restoring import from_prepared
from edgelora.errors import ModelError
from edgelora.layers import FrozenLinear, QuantizedLinear
from edgelora.prepared import RECORD_NAME, prepared_base

LINEAR = nn.Linear(6, 4, device="meta")


def tampered(folder, out, change):
    """A copy whose record fits tensors that ``change`` changed."""
    shutil.copytree(folder, out)
    document = json.loads((out / RECORD_NAME).read_text())
    for file in document["files"]:
        path = out / file["path"]
        if path.suffix == ".safetensors" and "layers.1" in str(load_file(path).keys()):
            tensors = load_file(path)
            change(tensors)
            save_file(tensors, path, {"format": "pt"})
            data = path.read_bytes()
            file |= {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    (out / RECORD_NAME).write_text(json.dumps(document))
    return out


def shorter(name):
    def change(tensors):
        key = next(each for each in tensors if each.endswith(name))
        tensors[key] = tensors[key][:1].clone()

    return change


def wider(name):
    def change(tensors):
        key = next(each for each in tensors if each.endswith(name))
        tensors[key] = tensors[key].to(torch.float64)

    return change


def without(name):
    def change(tensors):
        del tensors[next(each for each in tensors if each.endswith(name))]

    return change


@pytest.mark.parametrize(
    ("quantizer", "change", "words"),
    [
        ("nf4", shorter("_proj.weight"), r"model\.layers\.1\..*\.codes is \[1, 1\] uint8, not \["),
        ("nf4", shorter(".absmax"), r"_proj\.absmax is \[1\] uint8"),
        ("nf4", shorter(".nested_quant_map"), r"_proj\.absmax_code is \[1\] float32, not \[256\]"),
        ("nf4", without(".nested_absmax"), r"holds no tensor .*_proj\.absmax"),
        ("nf4-icq", shorter(".tau_codes"), r"_proj\.tau_codes is \[1\] uint8"),
        ("nf4-icq", wider(".tau_scale"), r"_proj\.tau_scale is of torch\.float64 in 1 dimensions"),
        ("nf4-icq", without(".tau_scale"), r"holds no tensor .*_proj\.tau_scale"),
        ("nf3", shorter(".codes"), r"_proj\.codes is \[1, 1\] uint8, not \["),
        ("codebook", shorter(".codebook"), r"_proj\.codebook is \[1, 4\] float32, not \[256, 4\]"),
        ("codebook", shorter(".codes"), r"_proj\.codes is \[1\] uint8, not \["),
        ("int8", shorter(".codes"), r"_proj\.codes is \[1, 128\] int8, not \["),
        ("int8", shorter(".scale"), r"_proj\.scale is \[1\] float32"),
    ],
)
def test_a_tensor_that_the_quantizer_never_made_is_named(plan, prepared, tmp_path, quantizer, change, words):
    folder = tampered(prepared(quantizer), tmp_path / "base", change)
    with pytest.raises(ModelError, match=words):
        load_base(plan(base=str(folder), quantizer=quantizer))


class Trusting:
    """A quantizer that does not look at what it is given."""

    def quantize(self, linear, name):
        return Kept(linear.weight.detach(), linear.out_features, linear.in_features)

    def restore(self, tensors, name, shape, dtype):
        return Kept(tensors["codes"], *tensors["codes"].shape)


class Kept(QuantizedLinear):
    def __init__(self, codes, out_features, in_features):
        super().__init__(None, in_features, out_features)
        self.register_buffer("codes", codes)


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        ({"codes": torch.zeros(4, 6), "more": torch.zeros(1)}, "holds the tensor x.more"),
        ({"codes": torch.zeros(24)}, "x.codes is of torch.float32 in 1 dimensions"),
        ({"codes": torch.zeros(4, 6, dtype=torch.float64)}, "x.codes is of torch.float64"),
        ({}, "holds no tensor x.codes"),
    ],
)
def test_names_and_kinds_are_checked_for_every_quantizer(plan, prepared, monkeypatch, tensors, words):
    folder = prepared("nf4-icq")
    the_plan = plan(base=str(folder), quantizer="nf4-icq")
    monkeypatch.setattr(type(the_plan), "build", lambda *_: Trusting())
    restore = from_prepared(the_plan, prepared_base(folder))
    assert isinstance(restore({"codes": torch.zeros(4, 6)}, "x", LINEAR), FrozenLinear)
    with pytest.raises(ModelError, match=words):
        restore(tensors, "x", LINEAR)


def test_a_layer_or_bias_of_another_shape_than_the_model_s_is_refused(prepared):
    folder = prepared("none")
    config = read_config(str(folder))

    def restore(tensors, name, linear):
        return Kept(torch.zeros(2, 3), 2, 3)

    def with_bias(tensors, name, linear):
        return FrozenLinear(tensors["weight"], torch.zeros(1), linear.in_features, linear.out_features)

    for made, words in ((restore, r"weight as \(2, 3\)"), (with_bias, r"bias as \(1,\)")):
        with pytest.raises(ModelError, match=words):
            load_mapped(folder, config, made, skip_modules=(), dtype=torch.float32, gives_back=False)
