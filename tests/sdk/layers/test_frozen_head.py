"""The loss behind a head that does not learn: the plain one's numbers, each logit computed once."""

import pytest
import torch
from small_layers import Allocated
from torch import nn
from torch.nn import functional
from transformers import (
    CohereConfig,
    CohereForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    GraniteConfig,
    GraniteForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PhiConfig,
    PhiForCausalLM,
)

from edgelora.layers import FrozenLinear
from edgelora.layers.frozen_head import token_losses
from edgelora.layers.logits import way_to_logits
from edgelora.layers.loss import row_losses
from edgelora.protocols import Batch

SIZES = {
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "pad_token_id": 0,
    "tie_word_embeddings": False,
}
GROUPED = {**SIZES, "num_key_value_heads": 2}
MAKE = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**GROUPED)),
    "gemma2, capped": lambda: Gemma2ForCausalLM(
        Gemma2Config(**GROUPED, head_dim=8, final_logit_softcapping=0.5)
    ),
    "cohere, scaled": lambda: CohereForCausalLM(CohereConfig(**GROUPED, logit_scale=0.25)),
    "granite, divided": lambda: GraniteForCausalLM(GraniteConfig(**GROUPED, logits_scaling=8.0)),
    "phi, with a bias": lambda: PhiForCausalLM(PhiConfig(**SIZES)),
}
ANY_MODEL = pytest.mark.parametrize("name", MAKE)


def model_of(name, dtype=torch.float32):
    """One whose backbone learns, and its head does not."""
    torch.manual_seed(0)
    model = MAKE[name]()
    for module in model.modules():
        if isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.normal_(module.bias)
    model.requires_grad_(False).to(dtype)
    model.base_model.requires_grad_(True)
    return model


def batch():
    draw = torch.Generator().manual_seed(0)
    ids = torch.randint(1, 96, (4, 12), generator=draw)
    mask, labels = torch.ones_like(ids), ids.clone()
    labels[:, :4] = -100
    labels[3] = -100
    for row, length in enumerate((12, 9, 6)):
        mask[row, length:] = 0
        labels[row, length:] = -100
    return Batch(ids, mask, labels, torch.zeros(4, dtype=torch.int64))


def plain(model, rows):
    logits = model(input_ids=rows.input_ids, attention_mask=rows.attention_mask).logits[:, :-1].float()
    return functional.cross_entropy(logits.transpose(1, 2), rows.labels[:, 1:], reduction="none").sum(dim=1)


WEIGHTS = torch.tensor([0.3, 2.0, 0.0, 1.0])


def gradients(model, sums):
    own = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return torch.autograd.grad((sums * WEIGHTS).sum() / 13, own, allow_unused=True, materialize_grads=True)


@pytest.mark.parametrize("chunk", [1, 5, 15, 512])
@ANY_MODEL
def test_losses_and_gradients_are_those_of_the_full_logits(name, chunk):
    model, rows = model_of(name), batch()
    expected, (sums, counts) = plain(model, rows), row_losses(model, rows, chunk)
    assert counts.tolist() == [8, 5, 2, 0]
    assert float((sums - expected).detach().norm() / expected.detach().norm()) <= 1e-6
    # As one vector: some parameters, such as the keys' bias, have a gradient that is rounding alone.
    found, wanted = (torch.cat([g.flatten() for g in gradients(model, s)]) for s in (sums, expected))
    assert float((found - wanted).norm() / wanted.norm()) <= 1e-6


@ANY_MODEL
def test_a_wrong_gradient_would_be_seen(name, monkeypatch):
    right = torch.Tensor.scatter_add_
    monkeypatch.setattr(torch.Tensor, "scatter_add_", lambda s, d, i, x: right(s, d, i, 1.01 * x))
    model, rows = model_of(name), batch()
    found = gradients(model, row_losses(model, rows)[0])
    monkeypatch.undo()
    wanted = gradients(model, plain(model, rows))
    found, wanted = (torch.cat([g.flatten() for g in some]) for some in (found, wanted))
    assert float((found - wanted).norm() / wanted.norm()) > 1e-3


@ANY_MODEL
def test_in_sixteen_bits_losses_and_gradients_are_within_their_rounding(name):
    model, rows = model_of(name, torch.bfloat16), batch()
    expected, (sums, _) = plain(model, rows), row_losses(model, rows, 5)
    assert torch.allclose(sums, expected, rtol=1e-2)
    found, wanted = (torch.cat([g.flatten().float() for g in gradients(model, s)]) for s in (sums, expected))
    assert float((found - wanted).norm() / wanted.norm()) <= 3e-2


@ANY_MODEL
def test_each_token_goes_through_the_head_once(name):
    model, rows, seen = model_of(name), batch(), []
    row_losses(model, rows, 4)  # tries once how logits are had
    model.get_output_embeddings().register_forward_hook(lambda m, i, out: seen.append(out.numel() // 96))
    row_losses(model, rows, 4)[0].sum().backward()
    assert seen == [4, 4, 4, 3]


@ANY_MODEL
def test_what_is_the_heads_own_output_is_told(name):
    way = way_to_logits(model_of(name), batch().input_ids[:, :4])
    assert way is not None and way.is_head == (name in ("llama", "phi, with a bias"))


def test_a_model_that_writes_to_its_logits_is_told():
    class Scaled(LlamaForCausalLM):
        def forward(self, *args, **options):
            output = super().forward(*args, **options)
            output.logits.mul_(2)
            return output

    model = Scaled(LlamaConfig(**GROUPED))
    way = way_to_logits(model, batch().input_ids[:, :4])
    assert way is not None and not way.is_head


def test_a_head_that_learns_gets_its_gradient():
    model, rows = model_of("llama"), batch()
    model.lm_head.requires_grad_(True)
    expected, (sums, _) = plain(model, rows), row_losses(model, rows, 5)
    for found, wanted in zip(gradients(model, sums), gradients(model, expected), strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6)


class Dropping(nn.Linear):
    def forward(self, x):
        return super().forward(functional.dropout(x, 0.5, self.training))


def test_a_head_that_learns_behind_dropout_gets_the_gradient_of_the_loss_that_is_told(monkeypatch):
    model, rows = model_of("llama"), batch()
    head = Dropping(model.lm_head.in_features, model.lm_head.out_features, bias=False)
    model.lm_head = head
    row_losses(model.eval(), rows, 5)  # how the model makes logits is found out without dropout
    model.train()

    def step():
        torch.manual_seed(1)
        sums, _ = row_losses(model, rows, 5)
        return sums, *torch.autograd.grad(sums.sum(), [head.weight])

    told, gradient = step()
    monkeypatch.setattr("edgelora.layers.loss.checkpoint", lambda run, *given, **settings: run(*given))
    expected, wanted = step()
    assert torch.equal(told, expected)
    torch.testing.assert_close(gradient, wanted)


VOCABULARY, WIDTH, TOKENS = 4096, 16, 64


def head_and_states():
    torch.manual_seed(0)
    head = FrozenLinear.of(nn.Linear(WIDTH, VOCABULARY))
    return head, torch.randn(TOKENS, WIDTH, requires_grad=True), torch.randint(VOCABULARY, (TOKENS,))


def test_no_more_than_one_chunk_of_logits_is_made_and_nothing_of_it_is_kept(monkeypatch):
    monkeypatch.setattr("edgelora.layers.frozen_head.BLOCK", 2 * VOCABULARY)
    head, hidden, targets = head_and_states()
    saved = []
    with Allocated() as seen:
        with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
            losses = token_losses(head, hidden, targets, 16, overwrite=True)
        losses.sum().backward()
    assert seen.largest == 16 * VOCABULARY
    weight = head.weight.untyped_storage().data_ptr()
    assert (
        max(each.numel() for each in saved if each.untyped_storage().data_ptr() != weight) == TOKENS * WIDTH
    )


def test_evaluation_computes_no_gradient(monkeypatch):
    head, hidden, targets = head_and_states()
    expected = functional.cross_entropy(head(hidden), targets, reduction="none").detach()
    monkeypatch.setattr(torch.autograd, "grad", None)
    with torch.no_grad():
        losses = token_losses(head, hidden, targets, 16, overwrite=True)
    torch.testing.assert_close(losses, expected)
    assert not losses.requires_grad


def test_the_backward_pass_can_be_made_twice():
    head, hidden, targets = head_and_states()
    losses = token_losses(head, hidden, targets, 16, overwrite=True)
    first, second = (
        torch.autograd.grad(losses, hidden, torch.full((TOKENS,), 0.1), retain_graph=True)[0]
        for _ in range(2)
    )
    assert torch.equal(first, second)


def test_large_logits_do_not_overflow():
    head, hidden, targets = head_and_states()
    losses = token_losses(lambda h: 1e4 * head(h), hidden, targets, 16, overwrite=False)
    losses.sum().backward()
    assert losses.isfinite().all() and hidden.grad.isfinite().all()
