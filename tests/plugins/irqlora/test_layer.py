"""Elastic connections: averaging shortcuts beside the factors, folded into them exactly."""

import peft
import pytest
import torch
from tiny_models import save_llama, save_tokenizer, write_rows
from torch import nn
from transformers import AutoModelForCausalLM

from edgelora.engine.apply import load_adapted
from edgelora.errors import PlanError
from edgelora.layers import FrozenLinear, factors_are_exact, merge_into
from edgelora.protocols import Site
from edgelora.recipe import make_recipe
from edgelora.registry import Registry
from edgelora.run import run
from edgelora_plugins.irqlora.layer import ElasticAdapter, ElasticLinear, spread
from edgelora_plugins.irqlora.options import CalibrationOptions, ElasticOptions
from edgelora_plugins.irqlora.quantizer import CalibratedNormalFloat4

WIDTHS = (64, 32)


def linear():
    torch.manual_seed(0)
    return nn.Linear(*WIDTHS)


def plain():
    return FrozenLinear.of(linear())


def calibrated():
    return CalibratedNormalFloat4(CalibrationOptions()).quantize(linear(), "q")


def layer_of(base, rank=4, grouping="strict", dropout=0.0):
    adapter = ElasticAdapter(ElasticOptions(rank=rank, alpha=8, grouping=grouping, dropout=dropout))
    return adapter.wrap(base, Site("q", 0, "q", rank, 8.0))


def fill(layer):
    with torch.no_grad():
        layer.lora_B.normal_()
        layer.lora_beta1.fill_(0.7)
        layer.lora_beta2.fill_(-0.4)
    return layer


def test_pooling_and_lifting_are_the_published_examples():
    assert spread(torch.tensor([1.0, 2, 3, 4]), 2).tolist() == [1.5, 3.5]
    assert spread(torch.tensor([10.0, 20]), 6).tolist() == [10, 10, 10, 20, 20, 20]


def test_training_starts_at_the_base_where_only_one_side_has_a_gradient():
    layer, x = layer_of(plain()), torch.randn(3, 64)
    assert torch.equal(layer(x), layer.base(x))
    layer(x).square().sum().backward()
    assert not layer.lora_A.grad.any() and not layer.lora_beta1.grad.any()
    assert layer.lora_B.grad.any() and layer.lora_beta2.grad.any()


@pytest.mark.parametrize("base", [plain(), calibrated()], ids=["float32", "nf4-icq"])
@pytest.mark.parametrize(("rank", "grouping"), [(4, "strict"), (12, "gcd")])
def test_forward_factors_and_merge_are_one(base, rank, grouping):
    layer, x = fill(layer_of(base, rank, grouping)), torch.randn(2, 5, 64)
    assert factors_are_exact(layer)
    merged = merge_into(layer, base.dequantize(dtype=torch.float32))
    torch.testing.assert_close(x @ merged.T + base.bias, layer(x), rtol=1e-5, atol=1e-5)


def test_the_folded_factors_are_the_closed_form():
    layer = fill(layer_of(plain()))
    pool = torch.block_diag(*[torch.full((1, 16), 1 / 16)] * 4)
    lift = torch.block_diag(*[torch.ones(8, 1)] * 4)
    A, B, scaling = layer.factors()
    torch.testing.assert_close(A, layer.lora_A + 0.7 * pool)
    torch.testing.assert_close(B, layer.lora_B - 0.4 * lift)
    assert scaling == 2.0


def test_the_lift_takes_what_the_pool_added():
    layer, x = fill(layer_of(plain())), torch.randn(3, 64)
    low = x @ layer.lora_A.T + 0.7 * x.view(3, 4, 16).mean(dim=2)
    high = low @ layer.lora_B.T - 0.4 * low.repeat_interleave(8, dim=1)
    torch.testing.assert_close(layer.delta(x), 2.0 * high)


def test_dropout_spares_the_pool():
    layer, x = fill(layer_of(plain(), dropout=0.999)).train(), torch.ones(1, 64)
    with torch.no_grad():
        layer.lora_A.zero_()
    low = torch.full((1, 4), 0.7)
    expected = 2.0 * (low @ layer.lora_B.T - 0.4 * low.repeat_interleave(8, dim=1))
    torch.testing.assert_close(layer.delta(x), expected)


def test_a_rank_that_does_not_divide_the_widths_is_refused_by_name():
    with pytest.raises(
        PlanError, match="iec: rank 12 does not divide both widths of q, 64 in and 32 out"
    ) as caught:
        layer_of(plain(), rank=12)
    assert caught.value.fix == "choose a rank that divides 32, or set adapter.grouping to gcd"


def test_groups_by_the_common_divisor_are_the_strict_ones_where_the_rank_divides():
    x = torch.randn(2, 64)
    strict, gcd = fill(layer_of(plain())), fill(layer_of(plain(), grouping="gcd"))
    gcd.load_state_dict(strict.state_dict())
    assert torch.equal(strict(x), gcd(x))
    assert isinstance(strict, ElasticLinear)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny")
    save_tokenizer(folder)
    save_llama(folder)
    write_rows(folder / "train.jsonl", 30)
    return folder


@pytest.mark.parametrize("quantizer", ["none", "nf4-icq"])
def test_stock_peft_gets_only_what_it_computes(tiny, tmp_path, quantizer):
    document = {
        "base": str(tiny),
        "derivative": "irqlora",
        "quantizer": quantizer,
        "adapter": {"rank": 4},
        "data": [{"path": str(tiny / "train.jsonl")}],
        "evaluators": ["quantization"] if quantizer == "none" else ["code-entropy", "quantization"],
        "train": {"max_steps": 3, "batch_size": 4, "accumulation": 1, "learning_rate": 1e-2, "threads": 1},
        "out": str(tmp_path / "run"),
    }
    result = run(make_recipe(document), Registry.discover())
    base = AutoModelForCausalLM.from_pretrained(tiny)
    if quantizer == "none":
        ids = torch.arange(30).view(2, 15)
        stock = peft.PeftModel.from_pretrained(base, str(result.folder))(input_ids=ids).logits
        ours = load_adapted(str(result.folder), Registry.discover(), base=str(tiny)).model(input_ids=ids)
        torch.testing.assert_close(stock, ours.logits, rtol=1e-5, atol=1e-5)
    else:
        assert 3 < result.measurements["quantization.entropy"].value < 4
        assert not (result.folder / "adapter_config.json").exists()
        with pytest.raises(ValueError, match="adapter_config"):
            peft.PeftModel.from_pretrained(base, str(result.folder))


def test_an_adapter_of_16_bits_can_be_merged():
    layer = fill(layer_of(plain()))
    for factor in (layer.lora_A, layer.lora_B):
        factor.data = factor.data.bfloat16()
    x, base = torch.randn(3, 64), layer.base
    merged = merge_into(layer, base.dequantize(dtype=torch.float32))
    torch.testing.assert_close(x @ merged.T + base.bias, layer(x), rtol=1e-5, atol=1e-5)
