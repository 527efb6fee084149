"""The bottleneck adapter is Houlsby's, after the linears that end a sublayer."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM, GPT2Config, GPTNeoXConfig, LlamaConfig, OPTConfig

from edgelora.engine.approximating import approximate
from edgelora.engine.inject import choose_sites, plain_linears
from edgelora.errors import ExportUnsupported, PlanError
from edgelora.layers import FrozenLinear, merge_into
from edgelora.plan import make_plan
from edgelora.protocols import Site
from edgelora.recipe import make_recipe
from edgelora.registry import Registry
from edgelora_plugins.bottleneck.layer import ACTIVATIONS, BottleneckLinear
from edgelora_plugins.bottleneck.sites import sublayer_outputs

SMALL = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
MODELS = {
    "llama": (LlamaConfig(**SMALL, intermediate_size=64), {"o_proj", "down_proj"}),
    "gpt2": (GPT2Config(vocab_size=64, n_embd=32, n_layer=2, n_head=2), {"attn.c_proj", "mlp.c_proj"}),
    "neox": (GPTNeoXConfig(**SMALL, intermediate_size=64), {"attention.dense", "dense_4h_to_h"}),
    "opt": (OPTConfig(**SMALL, ffn_dim=64, word_embed_proj_dim=32), {"out_proj", "fc2"}),
}


def linears_of(config):
    with torch.device("meta"):
        return plain_linears(AutoModelForCausalLM.from_config(config))


def a_plan(**adapter):
    document = {"derivative": "bottleneck", "base": "micro", "adapter": adapter}
    return make_plan(make_recipe(document), Registry.discover())


def layer_of(scale=1.0, **options):
    torch.manual_seed(0)
    layer = BottleneckLinear(FrozenLinear.of(nn.Linear(6, 8)), Site("a", 0, "a", 4, 4 * scale), **options)
    for parameter in (layer.down_bias, layer.up, layer.up_bias):
        nn.init.normal_(parameter)
    return layer


@pytest.mark.parametrize("name", MODELS)
def test_it_follows_the_linears_that_end_the_two_sublayers(name):
    config, endings = MODELS[name]
    linears = linears_of(config)
    plan = a_plan()
    sites = [site.name for site in choose_sites(linears, plan, plan.build("adapter"))]
    assert sites == [each for each in linears if any(each.endswith(f".{ending}") for ending in endings)]
    assert len(sites) == 4


def test_a_model_of_unknown_names_is_refused_with_what_to_write():
    with pytest.raises(PlanError, match=r"ends an attention sublayer .* they are called inner, outer") as no:
        sublayer_outputs(["block.inner", "block.outer"])
    assert "target_modules: [...]" in no.value.fix
    with pytest.raises(PlanError, match="ends a feed-forward sublayer"):
        sublayer_outputs(["block.o_proj"])


def test_any_linears_may_be_named():
    plan = a_plan(target_modules=["gate_proj"])
    sites = choose_sites(linears_of(MODELS["llama"][0]), plan, plan.build("adapter"))
    assert {site.kind for site in sites} == {"gate_proj"}


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_it_computes_the_published_formula(activation):
    layer = layer_of(scale=0.5, activation=ACTIVATIONS[activation])
    x = torch.randn(2, 3, 6)
    h = x @ layer.base.weight.T + layer.base.bias
    inner = {"gelu": nn.GELU(), "relu": nn.ReLU(), "silu": nn.SiLU(), "tanh": nn.Tanh()}[activation]
    low = inner(h @ layer.down.T + layer.down_bias)
    expected = h + 0.5 * (low @ layer.up.T + layer.up_bias)
    assert torch.allclose(layer(x), expected, rtol=0, atol=1e-6)


def test_it_starts_as_its_base_exactly():
    base = FrozenLinear.of(nn.Linear(6, 8))
    x = torch.randn(5, 6)
    assert torch.equal(BottleneckLinear(base, Site("a", 0, "a", 4, 4.0))(x), base(x))


def test_without_its_nonlinearity_it_would_be_a_low_rank_product():
    """What keeps it from being merged is the activation: the change is no linear function of the output."""
    layer = layer_of()
    layer.up_bias.data.zero_(), layer.down_bias.data.zero_()
    x = torch.randn(4, 6)
    layer.base.bias.data.zero_()
    change = lambda x: layer(x) - layer.base(x)  # noqa: E731
    assert not torch.allclose(change(2 * x), 2 * change(x), atol=1e-2)


def test_its_parameters_are_two_projections_with_biases():
    count = sum(each.numel() for each in layer_of().parameters() if each.requires_grad)
    assert count == 2 * 4 * 8 + 4 + 8


def test_it_cannot_be_merged_and_says_what_to_do():
    with pytest.raises(ExportUnsupported, match="what o_proj computes cannot be folded") as refused:
        merge_into(layer_of(), torch.zeros(8, 6), "o_proj")
    assert "--adapter" in refused.value.fix
    manifest = SimpleNamespace(identity=SimpleNamespace(name="a"))
    adapted = SimpleNamespace(model=None, layers={"a": layer_of()}, manifest=manifest)
    with pytest.raises(ExportUnsupported, match="is not approximated by_magic") as refused:
        approximate(adapted, "by_magic")
    assert refused.value.fix.startswith("apply it unmerged, for nothing folds it")
