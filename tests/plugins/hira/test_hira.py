"""HiRA: the weight times a low-rank product, over any base, in blocks of rows."""

import json

import peft
import pytest
import torch
from safetensors.torch import load_file
from tiny_models import save_llama, save_tokenizer, write_rows
from torch import nn
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from edgelora.engine.apply import load_adapted
from edgelora.layers import FrozenLinear, merge_into
from edgelora.layers.blockwise import BlockwiseQuantizer
from edgelora.options import BlockwiseOptions
from edgelora.protocols import Site
from edgelora.recipe import make_recipe
from edgelora.registry import Registry
from edgelora.run import run
from edgelora_plugins.hira.layer import HiraLinear

IN, OUT, RANK = 64, 24, 4


class InBlocks(FrozenLinear):
    """Gives W five rows at a time; the last block is smaller."""

    def pieces(self, dtype, size=5 * IN):
        yield from super().pieces(dtype, size)


def linear(out_features=OUT):
    torch.manual_seed(0)
    return nn.Linear(IN, out_features)


def frozen():
    return FrozenLinear.of(linear())


def in_blocks():
    return InBlocks.of(linear())


def four_bit():
    return BlockwiseQuantizer(BlockwiseOptions()).quantize(linear(), "q")


BASES = pytest.mark.parametrize("make", [frozen, in_blocks, four_bit])


def layer_of(base, rank=RANK, alpha=8.0, **options):
    torch.manual_seed(1)
    return HiraLinear(base, Site("q", 0, "q", rank, alpha), **options)


def fill(layer):
    with torch.no_grad():
        layer.hira_B.normal_(std=0.5)
    return layer


def plain_form(layer, x):
    """As the paper writes it, from parameters of its own: output, A and B."""
    A, B = (each.detach().clone().requires_grad_() for each in (layer.hira_A, layer.hira_B))
    weight = layer.base.dequantize(dtype=torch.float32)
    return x @ (weight * (1 + B @ A)).T + layer.base.bias, A, B


@BASES
def test_training_starts_at_the_base_exactly(make):
    base, x = make(), torch.randn(2, 5, IN)
    assert torch.equal(layer_of(base)(x), base(x))


def test_where_the_product_is_one_the_weight_counts_twice():
    base, x = frozen(), torch.randn(5, IN)
    layer = layer_of(base, rank=1)
    with torch.no_grad():
        layer.hira_A.fill_(1.0)
        layer.hira_B.fill_(1.0)
    torch.testing.assert_close(layer(x), 2 * x @ base.weight.T + base.bias)
    torch.testing.assert_close(merge_into(layer, base.weight), 2 * base.weight)


def test_weights_that_are_zero_stay_zero():
    base = frozen()
    base.weight.data[::2, ::3] = 0.0
    merged = merge_into(fill(layer_of(base)), base.weight)
    assert not merged[::2, ::3].any() and merged[1::2].ne(base.weight[1::2]).all()


@pytest.mark.parametrize(("rank_of_weight", "rank", "expected"), [(32, 2, 32), (3, 2, 6), (5, 4, 20)])
def test_the_rank_of_the_change_is_that_of_the_weight_times_its_own(rank_of_weight, rank, expected):
    torch.manual_seed(0)
    weight = torch.randn(32, rank_of_weight, dtype=torch.float64) @ torch.randn(
        rank_of_weight, 32, dtype=torch.float64
    )
    A, B = torch.randn(rank, 32, dtype=torch.float64), torch.randn(32, rank, dtype=torch.float64)
    assert int(torch.linalg.matrix_rank(weight * (B @ A))) == expected
    layer = HiraLinear(FrozenLinear(weight.float(), None, 32, 32), Site("q", 0, "q", rank, 1.0))
    layer.hira_A.data, layer.hira_B.data = A.float(), B.float()
    change = merge_into(layer, weight.float()) - weight.float()
    torch.testing.assert_close(change, (weight * (B @ A)).float(), rtol=1e-4, atol=1e-4)


@BASES
def test_outputs_gradients_and_merge_are_those_of_the_plain_form(make):
    layer, x = fill(layer_of(make())), torch.randn(2, 5, IN)
    mine, plain = x.clone().requires_grad_(), x.clone().requires_grad_()
    expected, A, B = plain_form(layer, plain)
    computed = layer(mine)
    torch.testing.assert_close(computed, expected, rtol=1e-5, atol=1e-5)
    upstream = torch.randn_like(expected)
    computed.backward(upstream)
    expected.backward(upstream)
    for own, wanted in ((mine, plain), (layer.hira_A, A), (layer.hira_B, B)):
        torch.testing.assert_close(own.grad, wanted.grad, rtol=1e-5, atol=1e-5)
    merged = merge_into(layer, layer.base.dequantize(dtype=torch.float32))
    torch.testing.assert_close(x @ merged.T + layer.base.bias, expected.detach(), rtol=1e-5, atol=1e-5)


@BASES
def test_outputs_gradients_training_and_merge_are_those_of_stock_peft(make):
    base = make()
    plain = nn.Sequential(nn.Linear(IN, OUT))
    with torch.no_grad():
        plain[0].weight.copy_(base.dequantize(dtype=torch.float32))
        plain[0].bias.copy_(base.bias)
    theirs = peft.get_peft_model(plain, peft.HiraConfig(r=RANK, target_modules=["0"]))
    peer, layer = theirs.base_model.model[0], layer_of(base)
    with torch.no_grad():
        layer.hira_A.copy_(peer.hira_A["default"])
    pairs = [(layer.hira_A, peer.hira_A["default"]), (layer.hira_B, peer.hira_B["default"])]
    optimizer = torch.optim.AdamW([mine for mine, _ in pairs], lr=1e-2, eps=1e-4)
    their_optimizer = torch.optim.AdamW([their for _, their in pairs], lr=1e-2, eps=1e-4)
    x, wanted = torch.randn(64, IN), torch.randn(64, OUT)
    for _ in range(20):
        for model in (layer, theirs):
            (model(x) - wanted).square().mean().backward()
        for mine, their in pairs:
            torch.testing.assert_close(mine.grad, their.grad, rtol=1e-5, atol=1e-5)
        for step in (optimizer, their_optimizer):
            step.step()
            step.zero_grad()
    assert (layer(x) - base(x)).norm() > 0.05 * base(x).norm()
    torch.testing.assert_close(layer(x), theirs(x), rtol=1e-5, atol=1e-5)
    for mine, their in pairs:
        torch.testing.assert_close(mine, their, rtol=1e-5, atol=1e-5)
    peer.merge()
    merged = merge_into(layer, base.dequantize(dtype=torch.float32))
    torch.testing.assert_close(merged, peer.base_layer.weight, rtol=1e-5, atol=1e-5)


def test_alpha_scales_nothing():
    x = torch.randn(3, IN)
    assert torch.equal(fill(layer_of(frozen(), alpha=1.0))(x), fill(layer_of(frozen(), alpha=64.0))(x))


def test_dropout_leaves_the_bases_own_product_alone():
    layer, x = fill(layer_of(frozen(), dropout=0.5)), torch.randn(4, IN)
    torch.manual_seed(3)
    computed = layer.train()(x)
    torch.manual_seed(3)
    dropped = functional.dropout(x, 0.5)
    change = layer.base.weight * (layer.hira_B @ layer.hira_A)
    torch.testing.assert_close(computed, layer.base(x) + dropped @ change.T)
    torch.testing.assert_close(layer.eval()(x), layer.base(x) + x @ change.T)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_the_output_has_the_dtype_of_the_input(dtype):
    layer = fill(layer_of(frozen().to(dtype)))
    assert layer(torch.randn(2, IN, dtype=dtype)).dtype == dtype


def test_a_small_change_is_not_rounded_away_in_16_bits():
    layer, x = layer_of(frozen().to(torch.bfloat16), rank=1), torch.randn(2, 5, IN, dtype=torch.bfloat16)
    with torch.no_grad():
        layer.hira_A.fill_(1.0)
        layer.hira_B.fill_(2.0**-10)  # less than bfloat16 can tell from 1
    change = layer(x).float() - layer.base(x).float()
    weight = layer.base.weight.float()
    wanted = 2.0**-10 * (x.float() @ weight.T)
    # Rounded outputs change where the change is worth half of their last digit.
    assert change.any() and (change - wanted).norm() < 3 * wanted.norm()


def storage(argument):
    return argument.untyped_storage() if isinstance(argument, torch.Tensor) else None


class Largest(TorchDispatchMode):
    """Elements of the largest tensor any operation makes."""

    size = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        given = {each.data_ptr() for each in map(storage, args) if each is not None}
        # A view takes no memory.
        if isinstance(made, torch.Tensor) and storage(made).data_ptr() not in given:
            self.size = max(self.size, made.numel())
        return made


def test_no_matrix_of_the_weights_size_is_made_or_kept():
    layer, saved = fill(layer_of(InBlocks.of(linear(200)))), []
    x = torch.randn(2, IN, requires_grad=True)
    with (
        torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t),
        Largest() as largest,
    ):
        layer(x).sum().backward()
    assert layer.hira_B.grad.any()
    own = [each.numel() for each in saved if each.data_ptr() != layer.base.weight.data_ptr()]
    # A and B are smaller than W, and a block of it is.
    assert max([*own, largest.size]) < 200 * IN // 2


@pytest.fixture
def trained(tmp_path):
    """A function that trains a HiRA for two steps; ``options`` are the adapter's."""
    save_tokenizer(tmp_path / "base")
    save_llama(tmp_path / "base")
    document = {
        "base": str(tmp_path / "base"),
        "derivative": "hira",
        "data": [{"path": str(write_rows(tmp_path / "train.jsonl", 20))}],
        "evaluators": [],
        "out": str(tmp_path / "run"),
        "train": {"max_steps": 2, "batch_size": 4, "accumulation": 1, "learning_rate": 0.1, "threads": 1},
    }
    return lambda **options: run(make_recipe(document | {"adapter": options}), Registry.discover())


def test_what_is_published_names_pefts_method_and_no_alpha(trained):
    result = trained(rank=8)
    config = json.loads((result.folder / "adapter_config.json").read_text())
    assert (config["peft_type"], config["r"]) == ("HIRA", 8)
    assert not any("lora" in name or "alpha" in name for name in config)
    tensors = load_file(result.folder / "adapter_model.safetensors")
    site = "base_model.model.model.layers.0.self_attn.q_proj"
    assert tensors[f"{site}.hira_A"].shape == (8, 64) and tensors[f"{site}.hira_B"].shape == (64, 8)
    said = result.manifest.components[0].config
    assert said["peftSettings"] == {"peft_type": "HIRA"} and "alpha" not in said
    assert result.manifest.runtime.peft == ">=0.20"


def test_ranks_that_differ_are_not_published_for_peft_which_would_ignore_them(trained, tmp_path):
    result = trained(rank=8, rank_pattern={"k_proj": 4})
    assert sorted(path.suffix for path in result.folder.iterdir()) == [".json", ".md", ".safetensors"]
    adapted = load_adapted(str(result.folder), base=str(tmp_path / "base"))
    assert {layer.rank for layer in adapted.layers.values()} == {4, 8}
