"""Which layers compute by their factors, and that nothing else about them changes."""

import copy
import gc
import pickle
import weakref

import pytest
import torch
from torch import nn

from edgelora.engine.apply import take_off
from edgelora.engine.base import load_base
from edgelora.engine.hot_path import use_hot_path, use_own_forwards, uses_hot_path
from edgelora.engine.inject import inject
from edgelora.layers import FrozenLinear, LowRankLinear, LowRankPair, factors_are_exact, merge_into, over
from edgelora.protocols import Factors, Site


class Stranger(nn.Module):
    """A third party's layer: no subclass of ours, its base and factors under names of its own."""

    def __init__(self, base, rank=4):
        super().__init__()
        self.down = nn.Parameter(torch.randn(base.in_features, rank))
        self.up = nn.Parameter(torch.zeros(rank, base.out_features))
        self.frozen = base

    def forward(self, x):
        return self.frozen(x) + self.delta(x)

    def delta(self, x):
        return 2 * (x @ self.down.to(x.dtype) @ self.up.to(x.dtype))

    def factors(self):
        return Factors(self.down.T, self.up.T, 2.0)


class Louder(LowRankLinear):
    def forward(self, x):
        return self.base(x) + 1.5 * self.delta(x)


class Detached(LowRankLinear):
    """The right numbers, without a gradient for A."""

    def delta(self, x):
        return self.scaling * (x @ self.lora_A.detach().T @ self.lora_B.T)


class ScalesBase(LowRankLinear):
    def forward(self, x):
        return 0.5 * self.base(x) + self.delta(x)


class Counts(LowRankLinear):
    calls = 0

    def delta(self, x):
        self.calls += 1
        return super().delta(x)


class Neighbour(LowRankLinear):
    def neighbours(self):
        return ("k_proj",)


class NotAdditive(LowRankPair):
    def forward(self, x):
        return self.base(x) * 2

    def factors(self):
        return Factors(self.lora_A, self.lora_B, self.scaling)


def frozen(seed=0):
    torch.manual_seed(seed)
    return FrozenLinear.of(nn.Linear(32, 16))


def layer_of(kind=LowRankLinear, **options):
    return kind(frozen(), Site("a.q_proj", 0, "q_proj", 4, 8.0), **options)


def hot(layer):
    use_hot_path({"q": layer})
    return layer


def shaken(layer):
    for parameter in layer.parameters():
        if parameter.requires_grad:
            nn.init.normal_(parameter)
    return layer


def computed(layer):
    x = torch.randn(2, 3, 32, generator=torch.Generator().manual_seed(0)).requires_grad_()
    y = layer(x)
    own = [each for each in layer.parameters() if each.requires_grad]
    return [y, *torch.autograd.grad(y.square().sum(), [x, *own])]


def same(one, other):
    return all(torch.allclose(a, b, rtol=1e-5, atol=1e-5) for a, b in zip(one, other, strict=True))


def test_a_strangers_low_rank_layer_gets_it_for_free():
    layer = shaken(hot(Stranger(frozen())))
    assert uses_hot_path(layer)
    fused = computed(layer)
    assert fused[0].grad_fn.name() == "_FusedProductBackward"
    use_own_forwards({"q": layer})
    assert not uses_hot_path(layer)
    assert same(fused, computed(layer))


@pytest.mark.parametrize("kind", [Louder, Detached, ScalesBase, Neighbour, NotAdditive])
def test_a_layer_that_is_not_the_product_of_its_factors_keeps_its_own_forward(kind):
    assert not uses_hot_path(hot(layer_of(kind)))


def test_dropout_is_left_to_the_layer_while_it_trains():
    layer = shaken(hot(layer_of(dropout=0.5)))
    assert "FusedProduct" not in layer.train()(torch.ones(1, 32)).grad_fn.name()
    assert "FusedProduct" in layer.eval()(torch.ones(1, 32)).grad_fn.name()


def test_what_is_switched_on_later_is_left_to_the_layer():
    layer, x = shaken(hot(layer_of())).train(), torch.ones(1, 32)
    layer.dropout = nn.Dropout(0.5)
    assert "FusedProduct" not in layer(x).grad_fn.name()
    layer.dropout.p = 0.0
    assert "FusedProduct" in layer(x).grad_fn.name()
    layer.delta = lambda x: torch.ones(16)
    assert torch.equal(layer(x), layer.base(x) + 1)


def test_a_layer_that_is_dropped_is_gone_at_once():
    layer = shaken(hot(layer_of()))
    layer(torch.ones(1, 32)).sum().backward()
    kept = [weakref.ref(each) for each in (layer, layer.base)]
    gc.disable()
    try:
        del layer
        assert [each() for each in kept] == [None, None]
    finally:
        gc.enable()


def test_trying_leaves_no_trace():
    layer = layer_of(Counts)
    before = {name: tensor.clone() for name, tensor in layer.state_dict().items()}
    state = torch.get_rng_state()
    hot(layer)
    assert layer.calls == 0 and layer.training
    assert all(torch.equal(tensor, layer.state_dict()[name]) for name, tensor in before.items())
    assert torch.equal(torch.get_rng_state(), state)


def test_trying_copies_no_base():
    layer, base = layer_of(), None
    base = layer.base
    base.__deepcopy__ = None
    hot(layer)
    assert uses_hot_path(layer) and layer.base is base


def test_base_and_factors_are_looked_up_at_each_call():
    layer, x = shaken(hot(layer_of())), torch.randn(3, 32)
    other = frozen(seed=1)
    with over(layer, other):
        A, B, scaling = layer.factors()
        assert torch.allclose(layer(x), other(x) + scaling * (x @ A.T @ B.T), atol=1e-5)
    layer.scaling = 0.0
    assert torch.equal(layer(x), layer.base(x))


def test_a_base_that_does_more_than_a_product_is_left_to_the_layer():
    layer = shaken(hot(layer_of()))
    seen = []
    layer.base.register_forward_hook(lambda module, inputs, output: seen.append(output))
    layer(torch.randn(3, 32))
    assert len(seen) == 1


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda layer: pickle.loads(pickle.dumps(layer))])
def test_a_copy_computes_with_its_own_parts(duplicate):
    layer = shaken(hot(layer_of()))
    twin, x = duplicate(layer), torch.randn(3, 32)
    assert uses_hot_path(twin) and torch.equal(twin(x), layer(x))
    twin.lora_B.data.zero_()
    assert torch.equal(twin(x), twin.base(x)) and not torch.equal(layer(x), layer.base(x))


def test_merging_and_the_check_of_factors_read_the_layers_own_forward():
    layer, x = shaken(hot(layer_of())), torch.randn(3, 32)
    assert factors_are_exact(layer)
    merged = nn.functional.linear(x, merge_into(layer, layer.base.dequantize()), layer.base.bias)
    assert torch.allclose(layer(x), merged, atol=1e-4)
    layer.delta = lambda x: torch.zeros(*x.shape[:-1], 16)
    assert not factors_are_exact(layer)


def test_a_recipe_chooses(plan):
    for fused in (True, False):
        the_plan = plan(derivative="qlora", train={"fused": fused})
        layers = inject(load_base(the_plan), the_plan)
        assert all(uses_hot_path(layer) == fused for layer in layers.values())


def test_layers_without_memory_are_believed():
    with torch.device("meta"):
        assert uses_hot_path(hot(layer_of()))
        dropping = hot(layer_of(dropout=0.5))
    assert "FusedProduct" in dropping.eval()(torch.ones(1, 32, device="meta")).grad_fn.name()


def test_what_is_taken_off_leaves_the_frozen_linears(plan):
    the_plan = plan(derivative="qlora")
    model = load_base(the_plan)
    bases = [module for module in model.modules() if isinstance(module, FrozenLinear)]
    layers = inject(model, the_plan)
    take_off(model, layers)
    assert [module for module in model.modules() if isinstance(module, FrozenLinear)] == bases
