"""Packed rows against the same rows alone, on real architectures of every kind of attention and position."""

import dataclasses
import warnings

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from edgelora.engine.data import Row, collate, collate_packed
from edgelora.errors import CombinationError
from edgelora.layers import packed
from edgelora.layers.loss import row_losses
from edgelora.layers.row_attention import BY_ROW

SIZES = {
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "initializer_range": 0.2,
}
GPT = {"vocab_size": 96, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64, "initializer_range": 0.2}
NO_DROPOUT = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
WINDOW = {"sliding_window": 4}
"""Shorter than most rows."""

BY_ROW_KINDS = {
    "llama": SIZES,
    "qwen2": SIZES,
    "qwen3": SIZES,
    "mistral": SIZES | WINDOW,
    "gemma3_text": SIZES | WINDOW | {"layer_types": ["sliding_attention", "full_attention"]},
    "cohere2": SIZES | WINDOW | {"layer_types": ["sliding_attention", "full_attention"]},
    "phi3": SIZES,
    "gpt2": GPT | NO_DROPOUT,
    "gpt_neox": SIZES | {"hidden_dropout": 0.0, "attention_dropout": 0.0},
    "mixtral": SIZES | {"num_local_experts": 4},
    "qwen3_moe": SIZES | {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32},
}
MASKED_KINDS = {
    "gemma2": SIZES | WINDOW | {"attn_logit_softcapping": 1.0},
    "gptj": GPT | NO_DROPOUT | {"rotary_dim": 8},
}
REFUSED_KINDS = {
    "mamba": SIZES | {"state_size": 4},
    "falcon_h1": SIZES | {"mamba_d_ssm": 32, "mamba_n_heads": 4, "mamba_d_head": 8, "mamba_d_state": 8},
    "recurrent_gemma": SIZES,
    "lfm2": SIZES | {"layer_types": ["full_attention", "conv"]},
    "bloom": {"vocab_size": 96, "hidden_size": 32, "n_layer": 2, "n_head": 4},
}
LENGTHS = ((16,), (9, 1, 5), (7, 2), (3, 3, 3, 3))
"""A row as long as a sequence may be, one of a single token, and padding after some."""


def make(kind, sizes):
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **sizes)).float()


def checkpoint(model):
    with warnings.catch_warnings():  # renamed in transformers 5.2x
        warnings.simplefilter("ignore", FutureWarning)
        model.gradient_checkpointing_enable({"use_reentrant": False})


def rows(lengths=LENGTHS):
    """Rows by sequence; the prompt is not learned, and one row has no label at all."""
    draw = torch.Generator().manual_seed(1)
    made = []
    for number, of_sequence in enumerate(lengths):
        made.append([])
        for place, length in enumerate(of_sequence):
            ids = torch.randint(1, 96, (length,), generator=draw).tolist()
            learned = ids if (number, place) != (1, 2) else [-100] * length
            labels = [-100, *learned[1:]] if place % 2 else learned
            made[-1].append(Row(ids, labels, 0, f"rows:{number}.{place}", None, None))
    return made


def only(batch, number, place, lengths=LENGTHS):
    """The batch with the labels of one row."""
    start = sum(lengths[number][:place])
    labels = torch.full_like(batch.labels, -100)
    end = start + lengths[number][place]
    labels[number, start:end] = batch.labels[number, start:end]
    return dataclasses.replace(batch, labels=labels)


def losses_by_row(model, batch):
    places = [(number, place) for number, each in enumerate(LENGTHS) for place in range(len(each))]
    return torch.stack([row_losses(model, only(batch, number, place))[0][number] for number, place in places])


@pytest.mark.parametrize("kind", [*BY_ROW_KINDS, *MASKED_KINDS])
def test_each_row_has_the_loss_it_has_alone(kind):
    model = make(kind, (BY_ROW_KINDS | MASKED_KINDS)[kind]).eval()
    flat = [row for of_sequence in rows() for row in of_sequence]
    expected, counts = row_losses(model, collate(flat, pad_id=0))
    batch = collate_packed(rows(), pad_id=0)
    with torch.no_grad():
        found = losses_by_row(model, batch)
    assert torch.allclose(found, expected.detach(), rtol=1e-5, atol=1e-5)
    assert row_losses(model, batch)[1].sum() == counts.sum()
    assert (model.config._attn_implementation == BY_ROW) == (kind in BY_ROW_KINDS)


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("kind", [*BY_ROW_KINDS, *MASKED_KINDS])
def test_the_gradient_is_that_of_the_rows_alone(kind, checkpointing):
    model = make(kind, (BY_ROW_KINDS | MASKED_KINDS)[kind]).train()
    if checkpointing:
        checkpoint(model)
    flat = [row for of_sequence in rows() for row in of_sequence]
    gradients = []
    for batch in (collate(flat, pad_id=0), collate_packed(rows(), pad_id=0)):
        model.zero_grad()
        row_losses(model, batch)[0].sum().backward()
        gradients.append({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})
    alone, together = gradients
    assert alone.keys() == together.keys()
    for name, gradient in alone.items():
        assert float((together[name] - gradient).norm()) <= 1e-5 * max(1.0, float(gradient.norm())), name


@torch.no_grad()
def losses_of_last_row(model, batch):
    """Of the second sequence, before and after its first row changed."""
    changed = dataclasses.replace(batch, input_ids=batch.input_ids.clone())
    changed.input_ids[1, :9] = 97 - batch.input_ids[1, :9].clamp(min=2)
    return [row_losses(model, only(each, 1, 2))[0][1] for each in (batch, changed)]


@pytest.mark.parametrize("kind", ["llama", "mistral", "gpt2", "gemma2"])
def test_nothing_leaks_into_the_next_row_and_a_leak_would_be_seen(kind):
    model = make(kind, (BY_ROW_KINDS | MASKED_KINDS)[kind]).eval()
    batch = collate_packed(rows(), pad_id=0)
    batch.labels[1, 11] = 5  # the row that otherwise learns nothing
    before, after = losses_of_last_row(model, batch)
    assert before > 0
    assert torch.equal(before, after)
    # The control: the same rows with nothing that keeps them apart.
    before, after = losses_of_last_row(model, dataclasses.replace(batch, position_ids=None))
    assert abs(float(before - after)) > 1e-3


@pytest.mark.parametrize("kind", REFUSED_KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_model_that_carries_something_from_row_to_row_is_refused(kind, dtype):
    model = make(kind, REFUSED_KINDS[kind]).to(dtype).train()
    with pytest.raises(
        CombinationError, match=r"cannot be trained on packed rows: what it computes"
    ) as caught:
        row_losses(model, collate_packed(rows(), pad_id=0))
    assert caught.value.fix == "set train.packing: false"
    assert model.training
    assert model.config._attn_implementation != BY_ROW


def test_a_model_that_takes_no_position_ids_is_refused():
    model = make("mpt", {"vocab_size": 96, "d_model": 32, "n_heads": 4, "n_layers": 2, "max_seq_len": 64})
    with pytest.raises(CombinationError, match="MptForCausalLM cannot be trained on packed rows"):
        packed.way_to_pack(model)


@pytest.mark.parametrize("kind", ["llama", "mixtral", "gemma2", "mistral"])
def test_bfloat16_is_no_reason_to_refuse(kind):
    packed.way_to_pack(make(kind, (BY_ROW_KINDS | MASKED_KINDS)[kind]).to(torch.bfloat16))


@pytest.mark.parametrize("kind", ["llama", "mistral"])
def test_what_is_not_packed_is_computed_as_before(kind):
    model = make(kind, BY_ROW_KINDS[kind]).eval()
    batch = collate([row for of_sequence in rows() for row in of_sequence], pad_id=0)
    inputs = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask}
    with torch.no_grad():
        before = model(**inputs).logits, model.generate(**inputs, max_new_tokens=3, do_sample=False)
        packed.way_to_pack(model)
        after = model(**inputs).logits, model.generate(**inputs, max_new_tokens=3, do_sample=False)
    assert model.config._attn_implementation == BY_ROW
    assert all(torch.equal(one, other) for one, other in zip(before, after, strict=True))


def test_no_mask_over_the_sequence_exists(monkeypatch):
    model = make("mistral", BY_ROW_KINDS["mistral"]).train()
    batch = collate_packed(rows(), pad_id=0)
    row_losses(model, batch)  # tries how to compute before it computes
    checkpoint(model)
    seen = []
    plain = torch.nn.functional.scaled_dot_product_attention

    def see(query, key, value, **options):
        seen.append((query.shape[2], key.shape[2], options["attn_mask"]))
        return plain(query, key, value, **options)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", see)
    row_losses(model, batch)[0].sum().backward()
    lengths = sorted({queries for queries, _, _ in seen})
    assert lengths == [1, 2, 3, 4, 5, 7, 9, 16]  # padding is computed like a row
    for queries, keys, mask in seen:
        assert queries == keys
        assert (mask is None) == (queries < 4)
        assert mask is None or mask.shape == (1, 1, queries, queries)
