"""Lets adapted layers compute in the form that keeps least for the backward pass."""

from __future__ import annotations

import copy
import math
import weakref
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.amp.autocast_mode import is_autocast_available

from edgelora.capabilities import Additive, CrossSite, LowRank, TaskAware
from edgelora.layers import FrozenLinear
from edgelora.layers.fused import add_low_rank, is_plain

STEP = 0.1
"""Deviation of the normal numbers added to parameters when a layer is tried: many start at zero."""
TOLERANCE = 1e-5
"""Relative; in float32."""
BOTH = (True, False)
"""Training first: what it leaves behind in a layer shows in evaluation."""


def use_hot_path(layers: Mapping[str, nn.Module]) -> None:
    """Replace the forward of layers, on the instance, by `edgelora.layers.fused.add_low_rank`.

    Of those that are base(x) plus the product of their factors, whoever wrote them. Others keep their own:
    those routed by row, that read other sites, or whose factors are not what they compute. The last is found
    by trying a copy in training and in evaluation, so that dropout is seen by its effect.

    At each call base and factors are looked up anew. The layer's own forward is called over a base that does
    more than a product, while an `nn.Dropout` drops, and where ``delta`` or ``factors`` stands on the
    instance.
    """
    frozen = [part for layer in layers.values() for part in layer.modules() if isinstance(part, FrozenLinear)]
    stand_ins = {id(base): _Ones(base) for base in frozen}
    for layer in layers.values():
        if modes := _modes_of_its_factors(layer, stand_ins):
            name = next(name for name, part in layer.named_modules() if isinstance(part, FrozenLinear))
            layer.forward = _ByFactors(layer, name, modes)


def use_own_forwards(layers: Mapping[str, nn.Module]) -> None:
    """Undo `use_hot_path`."""
    for layer in layers.values():
        if uses_hot_path(layer):
            del layer.forward


def uses_hot_path(layer: nn.Module) -> bool:
    """Whether `use_hot_path` replaced the forward of ``layer``."""
    return isinstance(vars(layer).get("forward"), _ByFactors)


class _ByFactors:
    """The forward of a layer that holds it.

    It knows the layer weakly, or the two would keep each other, and the base's weights, until the garbage
    collector looks for cycles. A copy of the layer gets one that computes with the copy's parts.
    """

    def __init__(self, layer: nn.Module, base_name: str, modes: tuple[bool, ...]) -> None:
        self.layer = weakref.ref(layer)
        self.base_name = base_name
        self.modes = modes

    def __call__(self, x: Tensor) -> Tensor:
        layer = self._held()
        base = layer.get_submodule(self.base_name)
        as_tried = layer.training in self.modes and not _deviates(layer)
        if as_tried and is_plain(base) and not _casts(x.device.type):
            return add_low_rank(base, x, layer.factors())
        return type(layer).forward(layer, x)

    def __reduce__(self) -> tuple[type[_ByFactors], tuple[nn.Module, str, tuple[bool, ...]]]:
        return _ByFactors, (self._held(), self.base_name, self.modes)

    def _held(self) -> Any:
        layer = self.layer()
        if layer is None:
            raise ReferenceError("the layer of this forward is gone")
        return layer


def _deviates(layer: nn.Module) -> bool:
    """Whether it computes something else than when it was tried, as far as that can be seen."""
    return not vars(layer).keys().isdisjoint(("delta", "factors")) or any(
        part.training and part.p > 0 for part in layer.modules() if isinstance(part, nn.Dropout)
    )


def _casts(device: str) -> bool:
    # An operator under autocast casts in the forward alone; autograd knows only of those it has seen.
    return is_autocast_available(device) and torch.is_autocast_enabled(device)


class _Ones(FrozenLinear):
    """In the place of a base of the same size: a weight of equal numbers, without the memory of a weight."""

    def __init__(self, base: FrozenLinear) -> None:
        out_features, in_features = base.out_features, base.in_features
        number = torch.tensor(1 / math.sqrt(in_features), device="cpu")
        super().__init__(number.expand(out_features, in_features), None, in_features, out_features)

    def forward(self, input: Tensor) -> Tensor:
        total = input.sum(dim=-1, keepdim=True) * self.weight[0, 0]
        return total.expand(*input.shape[:-1], self.out_features).contiguous()


def _modes_of_its_factors(layer: nn.Module, stand_ins: Mapping[int, FrozenLinear]) -> tuple[bool, ...]:
    """In which modes, False being evaluation, ``layer`` is its base plus the product of its factors."""
    if not (isinstance(layer, Additive) and isinstance(layer, LowRank)):
        return ()
    if isinstance(layer, TaskAware | CrossSite) or "forward" in vars(layer):
        return ()
    if sum(isinstance(part, FrozenLinear) for part in layer.modules()) != 1:
        return ()
    if any(parameter.is_meta for parameter in layer.parameters()):
        return BOTH  # only rehearsed: believed
    # A copy, for a forward may count, or keep averages. With it come the layers whose factors it reads.
    copies: dict[int, Any] = dict(stand_ins)
    tried = copy.deepcopy(layer, copies)
    learned: dict[nn.Parameter, None] = {}
    for original, part in copies.items():
        if isinstance(part, nn.Module) and original not in stand_ins:
            part.to("cpu", torch.float32)
            learned |= {parameter: None for parameter in part.parameters() if parameter.requires_grad}
    with torch.inference_mode(False), torch.enable_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for parameter in learned:
            parameter.data = parameter.data + STEP * torch.randn_like(parameter)
        return tuple(mode for mode in BOTH if _is_its_factors(tried.train(mode), list(learned)))


def _is_its_factors(layer: nn.Module, learned: list[nn.Parameter]) -> bool:
    base = next(part for part in layer.modules() if isinstance(part, FrozenLinear))
    x = torch.randn(2, 2, base.in_features, requires_grad=True)
    inputs = [x, *learned]
    try:
        computed = layer(x)
        A, B, scaling = layer.factors()
        expected = base(x) + scaling * (x @ A.T @ B.T)
        g = torch.randn_like(expected)
        gradients = [
            torch.autograd.grad(y, inputs, g, allow_unused=True, materialize_grads=True)
            for y in (computed, expected)
        ]
    # What does not compute on its own, or has no gradient, keeps its own forward.
    except (AttributeError, LookupError, TypeError, ValueError, RuntimeError):
        return False
    if not isinstance(scaling, int | float) or _far(computed, expected) > TOLERANCE * expected.norm():
        return False
    # Relative to the largest: that of a single number is a sum of which rounding may be all that is left.
    largest = max(wanted.norm() for wanted in gradients[1])
    return all(_far(*pair) <= TOLERANCE * largest for pair in zip(*gradients, strict=True))


def _far(found: Tensor, wanted: Tensor) -> Tensor:
    return (found - wanted).norm()
