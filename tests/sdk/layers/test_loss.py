"""Chunked cross-entropy against the model's own."""

import warnings

import pytest
import torch
from torch.nn import functional
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    OPTConfig,
    OPTForCausalLM,
)

from edgelora.layers.loss import row_losses
from edgelora.protocols import Batch

SIZES = {
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "pad_token_id": 0,
}


def llama():
    return LlamaForCausalLM(LlamaConfig(**SIZES))


def gemma():
    """Caps its logits after the output head."""
    return Gemma2ForCausalLM(Gemma2Config(**SIZES, head_dim=8, final_logit_softcapping=0.5))


def gemma_barely_capped():
    """Caps its logits by less than a thousandth."""
    return Gemma2ForCausalLM(Gemma2Config(**SIZES, head_dim=8, final_logit_softcapping=4.0))


def mixtral():
    """Has an output with more than a hidden state."""
    return MixtralForCausalLM(MixtralConfig(**SIZES, num_local_experts=2, output_router_logits=True))


def opt():
    """Calls another module than its ``base_model``."""
    sizes = {"vocab_size": 96, "hidden_size": 32, "ffn_dim": 64, "num_hidden_layers": 2, "dropout": 0.0}
    config = OPTConfig(**sizes, num_attention_heads=4, word_embed_proj_dim=32, max_position_embeddings=64)
    return OPTForCausalLM(config)


class WeighedByPosition(LlamaForCausalLM):
    """Its logits do not follow from one hidden state each."""

    def forward(self, *args, **options):
        output = super().forward(*args, **options)
        output.logits = output.logits * torch.arange(1, 1 + output.logits.shape[1])[None, :, None]
        return output


def weighed_by_position():
    return WeighedByPosition(LlamaConfig(**SIZES))


CHUNKED = [llama, gemma, gemma_barely_capped, mixtral, opt]


def batch():
    draw = torch.Generator().manual_seed(0)
    ids = torch.randint(1, 96, (3, 12), generator=draw)
    mask, labels = torch.ones_like(ids), ids.clone()
    labels[:, :4] = -100
    for row, length in enumerate((12, 9, 6)):
        mask[row, length:] = 0
        labels[row, length:] = -100
    return Batch(ids, mask, labels, torch.zeros(3, dtype=torch.int64))


def plain(model, rows):
    logits = model(input_ids=rows.input_ids, attention_mask=rows.attention_mask).logits[:, :-1].float()
    losses = functional.cross_entropy(logits.transpose(1, 2), rows.labels[:, 1:], reduction="none")
    return losses.sum(dim=1)


@pytest.mark.filterwarnings("ignore:the logits of WeighedByPosition")
@pytest.mark.parametrize("make", [*CHUNKED, weighed_by_position])
@pytest.mark.parametrize("chunk", [1, 5, 128])
def test_losses_and_gradients_are_those_of_the_full_logits(make, chunk):
    torch.manual_seed(0)
    model, rows = make(), batch()
    expected = plain(model, rows)
    expected.sum().backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    sums, counts = row_losses(model, rows, chunk)
    sums.sum().backward()
    assert torch.allclose(sums, expected, rtol=1e-6)
    assert counts.tolist() == [8, 5, 2]
    for name, parameter in model.named_parameters():
        assert torch.allclose(parameter.grad, gradients[name], atol=1e-5), name


def test_a_row_without_labels_costs_nothing():
    model, rows = llama(), batch()
    rows.labels[1] = -100
    sums, counts = row_losses(model, rows)
    assert sums[1] == 0
    assert counts[1] == 0


@pytest.mark.parametrize("make", CHUNKED)
def test_no_tensor_of_all_tokens_times_the_vocabulary_exists(make):
    model, rows = make(), batch()
    seen = []

    def see(module, inputs, output):
        seen.append((output if torch.is_tensor(output) else output.logits).shape[:-1].numel())

    row_losses(model, rows, 3)  # tries once, on a few tokens, how logits are had
    model.lm_head.register_forward_hook(see)
    model.register_forward_hook(see)
    row_losses(model, rows, 3)[0].sum().backward()
    assert max(seen) <= 3


def test_where_all_logits_are_needed_at_once_it_is_said_once():
    model, rows = weighed_by_position(), batch()
    with pytest.warns(UserWarning, match="WeighedByPosition .* all tokens x vocabulary; lower train"):
        row_losses(model, rows)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        row_losses(model, rows)


def test_the_backbone_is_put_back_when_the_head_fails():
    model, rows = llama(), batch()
    row_losses(model, rows)
    forward = model.model.forward = model.model.forward  # as accelerate replaces it

    def fail(module, inputs):
        raise RuntimeError("out of memory")

    model.lm_head.register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        row_losses(model, rows)
    assert vars(model.model)["forward"] is forward


def test_the_mode_of_the_model_is_left_alone():
    model = llama().train()
    model.model.layers[0].eval()
    row_losses(model, batch())
    assert model.training
    assert not model.model.layers[0].training
