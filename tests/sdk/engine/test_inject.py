"""Adapters go around the linears a recipe names, in any model."""

import runpy

import pytest
import torch
from torch import nn

from edgelora.engine.base import load_base
from edgelora.engine.inject import (
    adapter_tensors,
    count_trainable,
    inject,
    trainable_parameters,
    unreachable_parameters,
)
from edgelora.errors import PlanError, PluginBug
from edgelora.layers import FrozenLinear, LowRankLinear

PROBE = torch.arange(12)[None]


def test_training_starts_at_the_base(plan):
    for derivative in ("lora", "rslora", "qlora"):
        the_plan = plan(derivative=derivative)
        model = load_base(the_plan)
        before = model(PROBE).logits
        inject(model, the_plan)
        assert torch.equal(model(PROBE).logits, before)


def test_all_linear_leaves_out_the_head(plan):
    the_plan = plan()
    layers = inject(load_base(the_plan), the_plan)
    assert len(layers) == 14
    assert not any("lm_head" in site for site in layers)


def test_parameter_count_is_rank_times_in_plus_out(plan):
    the_plan = plan(adapter={"rank": 4})
    layers = inject(load_base(the_plan), the_plan)
    count = sum(parameter.numel() for parameter in trainable_parameters(layers).values())
    sizes = [(layer.base.in_features, layer.base.out_features) for layer in layers.values()]
    assert count == 4 * sum(i + o for i, o in sizes)


@pytest.mark.parametrize("parameter", [torch.empty(0, 64), torch.empty(4, 64)], ids=["empty", "frozen"])
def test_layers_in_which_nothing_learns_are_refused_with_the_way_to_the_options(plan, parameter):
    layer = nn.ParameterList([nn.Parameter(parameter, requires_grad=not parameter.numel())])
    with pytest.raises(PlanError, match="adapter 'lora' has nothing that learns on this base") as caught:
        count_trainable({"layer": layer}, plan())
    assert caught.value.fix == "change its options: edgelora plugins show lora:lora"


def test_the_parameters_of_llama_8b_are_those_the_paper_prints(plan, registry, recipe):
    """r=16 on all linear layers of Llama-3.1-8B: 41,943,040 (Yugopuspito et al. 2024, figure 3)."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=128256,
        hidden_size=4096,
        intermediate_size=14336,
        num_hidden_layers=32,
        num_attention_heads=32,
        num_key_value_heads=8,
    )
    with torch.device("meta"):
        model = LlamaForCausalLM(config)
        layers = inject(model, plan(adapter={"rank": 16}))
    assert sum(parameter.numel() for parameter in trainable_parameters(layers).values()) == 41_943_040


@pytest.mark.parametrize(
    ("targets", "count"),
    [
        (["q_proj", "v_proj"], 4),
        (["layers.1.mlp.down_proj"], 1),
        (["model.layers.0.self_attn.q_proj"], 1),
        (["self_attn.q_proj"], 2),
    ],
)
def test_targets_are_full_names_or_suffixes(plan, targets, count):
    the_plan = plan(adapter={"rank": 4, "target_modules": targets})
    assert len(inject(load_base(the_plan), the_plan)) == count


def test_patterns_set_rank_and_alpha_and_the_full_name_wins(plan):
    the_plan = plan(
        adapter={
            "rank": 4,
            "alpha": 8,
            "rank_pattern": {"q_proj": 2, "model.layers.1.self_attn.q_proj": 3},
            "alpha_pattern": {"q_proj": 6},
        }
    )
    layers = inject(load_base(the_plan), the_plan)
    first, second = (layers[f"model.layers.{n}.self_attn.q_proj"] for n in (0, 1))
    assert (first.rank, first.scaling) == (2, 3.0)
    assert (second.rank, second.scaling) == (3, 2.0)
    assert layers["model.layers.0.self_attn.k_proj"].scaling == 2.0


def test_rslora_divides_by_the_root_of_the_rank(plan):
    the_plan = plan(derivative="rslora", adapter={"rank": 16, "alpha": 8})
    assert {layer.scaling for layer in inject(load_base(the_plan), the_plan).values()} == {2.0}


def test_excluded_modules_are_left_alone(plan):
    the_plan = plan(adapter={"rank": 4, "exclude_modules": ["mlp.down_proj"]})
    assert len(inject(load_base(the_plan), the_plan)) == 12


@pytest.mark.parametrize(
    ("options", "text", "fix"),
    [
        ({"target_modules": ["q_prj"]}, "'q_prj' names no linear", "did you mean 'q_proj'?"),
        ({"exclude_modules": ["zzz"]}, "'zzz' names no linear", "use one of: down_proj"),
        ({"rank_pattern": {"qproj": 2}}, "rank_pattern: 'qproj' names no linear", "did you mean 'q_proj'?"),
        ({"rank": 65}, "rank 65 does not fit model.layers.0.self_attn.q_proj", "a rank from 1 to 64"),
        ({"target_modules": ["q_proj"], "exclude_modules": ["q_proj"]}, "no linear is left", "widen"),
    ],
)
def test_a_choice_that_fits_no_linear_is_refused(plan, options, text, fix):
    the_plan = plan(adapter={"rank": 4} | options)
    with pytest.raises(PlanError, match=text) as caught:
        inject(load_base(the_plan), the_plan)
    assert fix in caught.value.fix


def test_only_the_adapter_trains_and_its_dtype_is_the_recipes(plan):
    the_plan = plan(train={"adapter_dtype": "bfloat16"})
    model = load_base(the_plan)
    layers = inject(model, the_plan)
    trainable = {id(parameter) for parameter in trainable_parameters(layers).values()}
    assert {id(p) for p in model.parameters() if p.requires_grad} == trainable
    assert {p.dtype for p in trainable_parameters(layers).values()} == {torch.bfloat16}


def test_state_of_the_adapter_never_holds_the_base(plan):
    the_plan = plan(derivative="qlora")
    layers = inject(load_base(the_plan), the_plan)
    assert {name.rpartition(".")[2] for name in adapter_tensors(layers)} == {"lora_A", "lora_B"}


def test_a_linear_that_stands_at_two_places_is_adapted_at_both(plan):
    shared = nn.Linear(16, 16)
    model = nn.Sequential(shared, nn.ReLU(), shared)
    layers = inject(model, plan(adapter={"rank": 2}))
    assert len(layers) == 1
    assert model[0] is model[2] is layers["0"]


def test_weights_in_no_linear_are_reported(plan):
    class FusedExperts(nn.Module):
        def __init__(self):
            super().__init__()
            self.gate_up = nn.Parameter(torch.zeros(4, 8, 8))
            self.router = nn.Linear(8, 4)
            self.norm = nn.LayerNorm(8)

    model = FusedExperts()
    layers = inject(model, plan(adapter={"rank": 2}))
    assert unreachable_parameters(model, layers) == ["gate_up"]


def test_an_adapter_that_returns_no_module_is_a_bug_of_its_plugin(plan, monkeypatch):
    monkeypatch.setattr("edgelora_plugins.lora.layer.LoraAdapter.wrap", lambda self, base, site: None)
    with pytest.raises(PluginBug, match="adapter 'lora' returned NoneType for 0"):
        inject(nn.Sequential(nn.Linear(4, 4)), plan(adapter={"rank": 2}))


@pytest.mark.parametrize(
    ("member", "clash"), [("delta", "delta of Additive"), ("merged", "merged of Mergeable")]
)
def test_a_member_called_as_a_capabilitys_method_is_a_bug_of_its_plugin(plan, monkeypatch, member, clash):
    class Named(nn.Module):
        def __init__(self, base):
            super().__init__()
            self.base = base
            setattr(self, member, False)

    monkeypatch.setattr("edgelora_plugins.lora.layer.LoraAdapter.wrap", lambda self, base, site: Named(base))
    with pytest.raises(PluginBug, match=f"Named of adapter 'lora' has a member called as {clash}"):
        inject(nn.Sequential(nn.Linear(4, 4)), plan(adapter={"rank": 2}))


def test_frozen_tensors_of_an_adapter_follow_the_base_to_its_device(plan, monkeypatch):
    class WithCopies(LowRankLinear):
        def __init__(self, base, site, **options):
            super().__init__(base, site)
            self.register_buffer("mask", torch.ones(site.rank))
            self.start = nn.Parameter(torch.zeros(2), requires_grad=False)

    monkeypatch.setattr("edgelora_plugins.lora.layer.LowRankLinear", WithCopies)
    with torch.device("meta"):
        model = nn.Sequential(nn.Linear(16, 16))
    (layer,) = inject(model, plan(adapter={"rank": 2}, train={"adapter_dtype": "bfloat16"})).values()
    assert {t.device.type for t in (layer.mask, layer.start, layer.lora_A)} == {"meta"}
    assert (layer.start.dtype, layer.lora_A.dtype) == (torch.float32, torch.bfloat16)


def test_the_mlp_example_runs_and_learns(capsys):
    runpy.run_path("examples/mlp.py", run_name="__main__")
    words = capsys.readouterr().out.split()
    assert words[:2] == ["adapted", "['2']:"]
    assert float(words[-1]) < float(words[-3]) / 2


def test_frozen_layers_of_a_plain_module_are_made_on_the_way(plan):
    model = nn.Sequential(nn.Linear(16, 16))
    layers = inject(model, plan(adapter={"rank": 2}))
    assert isinstance(layers["0"], LowRankLinear)
    assert isinstance(layers["0"].base, FrozenLinear)
