"""A low-rank change of looked-up rows is PEFT's, and never has the size of the embedding."""

from collections import OrderedDict

import peft
import pytest
import torch
from torch import nn

from edgelora.layers import FrozenEmbedding, LowRankEmbedding, factors_are_exact, merge_into
from edgelora.protocols import Site

IDS = torch.tensor([[3, 0, 49], [7, 3, 3]])


def adapted(dtype=torch.float32, *, start=False):
    torch.manual_seed(0)
    layer = LowRankEmbedding(FrozenEmbedding(torch.randn(50, 16, dtype=dtype)), Site("e", 0, "e", 4, 6.0))
    if not start:
        nn.init.normal_(layer.lora_embedding_A)
    return layer


def test_it_starts_at_the_base():
    layer = adapted(start=True)
    assert torch.equal(layer(IDS), layer.base(IDS))


def test_the_change_is_that_of_the_whole_matrix():
    layer = adapted()
    A, B, scaling = layer.factors()
    changed = layer.base.weight + scaling * (B @ A).T
    assert torch.allclose(layer(IDS), changed[IDS], rtol=0, atol=1e-5)
    assert torch.allclose(merge_into(layer, layer.base.weight.T).T, changed, rtol=0, atol=1e-5)


class Halved(LowRankEmbedding):
    """Says another change than it computes."""

    def forward(self, ids):
        return (super().forward(ids) + self.base(ids)) / 2


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_factors_are_held_against_what_is_computed_whatever_the_base(dtype):
    layer = adapted(dtype)
    own = layer.base
    assert factors_are_exact(layer)
    layer.base = FrozenEmbedding(torch.full_like(own.weight, torch.nan))
    assert factors_are_exact(layer)
    assert layer.base.weight.isnan().all()
    wrong = Halved(own, Site("e", 0, "e", 4, 6.0))
    nn.init.normal_(wrong.lora_embedding_A)
    assert not factors_are_exact(wrong)


def test_it_computes_what_stock_peft_computes():
    layer = adapted()
    model = nn.Sequential(OrderedDict(e=nn.Embedding(50, 16, _weight=layer.base.weight.clone())))
    stock = peft.get_peft_model(model, peft.LoraConfig(r=4, lora_alpha=6, target_modules=["e"]))
    A, B, _ = layer.factors()
    tensors = {"lora_embedding_A": A.detach(), "lora_embedding_B": B.detach()}
    loaded = peft.set_peft_model_state_dict(stock, {f"base_model.model.e.{k}": v for k, v in tensors.items()})
    assert not loaded.unexpected_keys
    assert torch.allclose(stock(IDS), layer(IDS), rtol=0, atol=1e-5)


def test_only_the_columns_of_looked_up_tokens_get_a_gradient():
    layer = adapted()
    layer(IDS).sum().backward()
    touched = layer.lora_embedding_A.grad.any(dim=0).nonzero().flatten().tolist()
    assert touched == sorted(set(IDS.flatten().tolist()))
    assert layer.lora_embedding_B.grad.any() and layer.base.weight.grad is None


def test_nothing_of_the_size_of_the_embedding_is_made():
    tokens, width = 200_000, 512
    base = FrozenEmbedding(torch.empty(1, 1).expand(tokens, width))
    with torch.device("meta"):
        layer = LowRankEmbedding(FrozenEmbedding(torch.empty(tokens, width)), Site("e", 0, "e", 2, 2.0))
    made = []

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, operator, types, arguments=(), keywords=None):
            result = operator(*arguments, **(keywords or {}))
            made.append(result.numel())
            return result

    with Watch():
        layer(torch.zeros(2, 8, dtype=torch.int64, device="meta")).sum().backward()
    assert base.num_embeddings == tokens
    assert max(made) == 2 * tokens


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rows_come_in_the_dtype_of_the_base(dtype):
    layer = adapted(dtype)
    assert layer(IDS).dtype == dtype
    assert factors_are_exact(layer)


def test_factors_that_are_not_what_it_computes_are_seen():
    class Doubled(LowRankEmbedding):
        def forward(self, ids):
            return 2 * super().forward(ids) - self.base(ids)

    layer = Doubled(FrozenEmbedding(torch.randn(50, 16)), Site("e", 0, "e", 4, 6.0))
    nn.init.normal_(layer.lora_embedding_A)
    assert not factors_are_exact(layer)
