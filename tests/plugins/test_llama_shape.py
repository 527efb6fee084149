"""Trainable parameters on the shape of Llama-3.1-8B, without its weights, are the closed forms."""

import pytest
import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from edgelora.engine.inject import inject, trainable_parameters
from edgelora.layers import FrozenLinear, LowRankLinear
from edgelora.plan import make_plan
from edgelora.protocols import Site
from edgelora.recipe import make_recipe
from edgelora.registry import Registry

# Per block: q and o (4096, 4096); k and v (1024, 4096); gate and up (14336, 4096); down (4096, 14336).
SHAPES = [(4096, 4096)] * 2 + [(1024, 4096)] * 2 + [(14336, 4096)] * 2 + [(4096, 14336)]
BLOCKS = 32
RANK = 16


def per_layer(formula):
    return BLOCKS * sum(formula(out, into) for out, into in SHAPES)


LORA = per_layer(lambda out, into: RANK * (out + into))
SITES = BLOCKS * len(SHAPES)
CLOSED_FORMS = {
    "lora": (LORA, {}),
    "clora": (LORA, {}),
    "olora": (LORA, {}),
    "dora": (LORA + per_layer(lambda out, into: out), {}),
    "svd": (LORA + SITES * RANK, {}),
    "iec": (LORA + SITES * 2, {}),
    "input-shortcut": (LORA, {}),
    "block-shortcut": (LORA, {"pre_num": -1}),
    "middle-shortcut": (LORA, {}),
    "task-lora": (
        per_layer(lambda out, into: (8 + 3 * 4) * (out + into)),
        {"rank": 8, "task_rank": 4},
    ),
}


# Of one (4096, 4096) linear, rank and options as given.
OF_ONE_LAYER = {
    "lora": (65_536, {"rank": 8}),
    "olora": (65_536, {"rank": 8}),
    # The authors count one more, the frozen rank under alpha.
    "svd": (98_316, {"rank": 12}),
    "dora": (69_632, {"rank": 8}),
    "iec": (65_538, {"rank": 8}),
    "input-shortcut": (65_536, {"rank": 8}),
    "block-shortcut": (65_536, {"rank": 8}),
    "middle-shortcut": (65_536, {"rank": 8}),
    "task-lora": (163_840, {"rank": 8, "task_rank": 4}),
}


def llama_shape() -> nn.Module:
    config = LlamaConfig(
        vocab_size=128256,
        hidden_size=4096,
        intermediate_size=14336,
        num_hidden_layers=BLOCKS,
        num_attention_heads=32,
        num_key_value_heads=8,
        tie_word_embeddings=False,
    )
    with torch.device("meta"):
        return LlamaForCausalLM(config)


def count(adapter, options, tasks=("main",)):
    data = [{"path": f"{task}.jsonl", "task": task} for task in tasks]
    document = {"base": "micro", "adapter": {"name": adapter, "rank": RANK, **options}, "data": data}
    plan = make_plan(make_recipe(document), Registry.discover())
    with torch.device("meta"):
        layers = inject(llama_shape(), plan)
    return sum(parameter.numel() for parameter in trainable_parameters(layers).values())


def test_lora_of_rank_16_is_the_number_of_the_paper_and_rank_2_that_of_the_talk():
    assert count("lora", {}) == LORA == 41_943_040
    assert count("lora", {"rank": 2}) == 5_242_880


@pytest.mark.parametrize("adapter", CLOSED_FORMS)
def test_trainable_parameters_are_the_closed_form(adapter):
    expected, options = CLOSED_FORMS[adapter]
    assert count(adapter, options, tasks=("a", "b", "c")) == expected


@pytest.mark.parametrize("adapter", OF_ONE_LAYER)
def test_one_layer_has_the_published_number(adapter):
    expected, options = OF_ONE_LAYER[adapter]
    only = {"target_modules": ["layers.0.self_attn.q_proj"], **options}
    assert count(adapter, only, tasks=("a", "b", "c")) == expected


def test_rank_2_of_a_square_of_512_is_2048_parameters():
    with torch.device("meta"):
        layer = LowRankLinear(FrozenLinear.of(nn.Linear(512, 512, bias=False)), Site("q", 0, "q", 2, 2.0))
    assert layer.base.weight.numel() == 262_144
    assert sum(parameter.numel() for parameter in trainable_parameters({"q": layer}).values()) == 2_048
