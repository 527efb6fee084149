"""Blocks are held in the order they are computed in, and the next one is known before."""

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    MixtralConfig,
    MixtralForCausalLM,
    OPTConfig,
    OPTForCausalLM,
)

from edgelora.engine.mapped.blocks import decoder_blocks
from edgelora.engine.mapped.residency import Residency
from edgelora.errors import ModelError
from edgelora.layers import FrozenLinear
from edgelora.layers.fused import add_low_rank, is_plain
from edgelora.protocols import Factors


class Log:
    """A holder that writes down what it is asked to hold."""

    def __init__(self):
        self.held = []

    def hold(self, place, following):
        self.held.append((place, following))


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = FrozenLinear(torch.eye(4), None, 4, 4)

    def forward(self, x):
        return self.linear(x)


class Model(nn.Module):
    def __init__(self, count=4):
        super().__init__()
        self.blocks = nn.ModuleList(Block() for _ in range(count))

    def forward(self, x):
        for block in self.blocks:
            x = checkpoint(block.forward, x, use_reentrant=False) if self.training else block(x)
        return x


def held(model, action):
    log = Log()
    Residency(decoder_blocks(model), log)
    action(model)
    return log.held


def steps(model):
    for _ in range(2):
        model.train()(torch.ones(1, 4, requires_grad=True)).sum().backward()


def test_a_training_step_goes_up_and_down_and_the_next_one_begins_where_it_ended():
    up = [(0, 1), (1, 2), (2, 3), (3, 2)]
    down = [(2, 1), (1, 0), (0, 1)]
    assert held(Model(), steps) == [*up, *down, *up[1:], *down]


def test_without_gradients_the_first_block_comes_after_the_last():
    def twice(model):
        with torch.no_grad():
            for _ in range(2):
                model.eval()(torch.ones(1, 4))

    assert held(Model(3), twice) == 2 * [(0, 1), (1, 2), (2, 0)]


def test_a_model_of_one_block_holds_it():
    assert held(Model(1), steps) == [(0, 0)]


def test_blocks_are_held_whatever_their_order():
    def backwards(model):
        with torch.no_grad():
            for place in (2, 0, 1, 3, 3, 1):
                model.blocks[place](torch.ones(1, 4))

    assert [place for place, _ in held(Model(), backwards)] == [2, 0, 1, 3, 1]


SIZES = {"vocab_size": 96, "hidden_size": 32, "num_attention_heads": 4}


def mixtral():
    return MixtralForCausalLM(
        MixtralConfig(
            **SIZES, num_hidden_layers=3, intermediate_size=16, num_key_value_heads=2, num_local_experts=2
        )
    )


def opt():
    return OPTForCausalLM(OPTConfig(**SIZES, num_hidden_layers=3, ffn_dim=16, word_embed_proj_dim=16))


@pytest.mark.parametrize(("make", "where"), [(mixtral, "model.layers"), (opt, "model.decoder.layers")])
def test_the_blocks_of_any_architecture_are_found(make, where):
    model = make()
    freeze(model)
    assert decoder_blocks(model) == list(model.get_submodule(where))


def test_linears_that_are_entered_are_still_plain_and_a_fused_one_is_entered():
    model, log = opt(), Log()
    freeze(model)
    blocks = decoder_blocks(model)
    Residency(blocks, log)
    assert all(is_plain(part) for part in (blocks[0].fc1, blocks[0].fc2, blocks[0].self_attn.q_proj))
    add_low_rank(blocks[2].fc1, torch.ones(1, 32), Factors(torch.ones(2, 32), torch.ones(16, 2), 1.0))
    assert [place for place, _ in log.held] == [2]
    blocks[0].fc1.register_forward_pre_hook(lambda module, inputs: (2 * inputs[0],))
    assert not is_plain(blocks[0].fc1)


def test_several_lists_count_as_one_after_the_other_and_a_shared_block_once():
    model = nn.ModuleDict({"first": Model(2), "empty": nn.ModuleList([nn.Identity()]), "second": Model(1)})
    model["second"].blocks.append(model["first"].blocks[0])
    assert decoder_blocks(model) == [*model["first"].blocks, model["second"].blocks[0]]


def test_a_model_without_a_list_of_blocks_is_refused():
    with pytest.raises(ModelError, match="no list of blocks that could be streamed") as caught:
        decoder_blocks(GPT2LMHeadModel(GPT2Config(n_embd=32, n_layer=1, n_head=2, vocab_size=96)))
    assert "train.streamed" in caught.value.fix


def freeze(model):
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.Linear) and module is not model.get_output_embeddings():
            model.set_submodule(name, FrozenLinear.of(module))


class Interrupted(Log):
    """A holder that is interrupted the first time it is asked for a block."""

    def hold(self, place, following):
        super().hold(place, following)
        if self.held == [(place, following)]:
            raise KeyboardInterrupt


def test_a_block_that_was_not_held_is_held_the_next_time():
    model, log = Model().eval(), Interrupted()
    Residency(decoder_blocks(model), log)
    with pytest.raises(KeyboardInterrupt):
        model(torch.ones(1, 4))
    with torch.no_grad():
        model(torch.ones(1, 4))
    assert [place for place, _ in log.held] == [0, 0, 1, 2, 3]
