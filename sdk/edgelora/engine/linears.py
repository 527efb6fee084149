"""Linears in the two forms models keep them in: `nn.Linear`, and `Conv1D`, whose weight is (in, out).

GPT-2 and its like have the second. Whoever quantizes or adapts sees the first.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers.pytorch_utils import Conv1D

from edgelora.capabilities import StockQuantization
from edgelora.layers import FrozenLinear
from edgelora.protocols import Quantizer

LINEARS = (nn.Linear, Conv1D)
"""The classes, for ``isinstance``."""


def is_linear(module: nn.Module) -> bool:
    """Whether a module is a linear in either form, frozen or not, that computes a product and nothing more.

    Routers of experts are subclasses of `nn.Linear` too, and answer with more than its output.
    """
    if not isinstance(module, LINEARS):
        return False
    kind = type(module)
    if isinstance(module, FrozenLinear) or kind.forward in (nn.Linear.forward, Conv1D.forward):
        return True
    if kind not in _IS_A_PRODUCT:
        _IS_A_PRODUCT[kind] = _computes_a_product(module)
    return _IS_A_PRODUCT[kind]


_IS_A_PRODUCT: dict[type[nn.Module], bool] = {}
"""What was tried, by class."""


def _computes_a_product(linear: nn.Module) -> bool:
    """Whether a linear with a forward of its own, given small weights, gives what `nn.Linear` would."""
    trial = copy.copy(linear)
    numbers = partial(torch.arange, dtype=torch.float32, device="cpu")  # of which all sums are exact
    weight, x = numbers(6).view(3, 2), numbers(8).view(1, 4, 2)
    bias = None if linear.bias is None else numbers(3)
    trial._parameters = {"weight": weight, "bias": bias}
    try:
        made = trial.forward(x)
    except Exception:  # somebody else's code, which may want anything
        return False
    return isinstance(made, Tensor) and made.tolist() == functional.linear(x, weight, bias).tolist()


def shape_of(linear: nn.Module) -> tuple[int, int]:
    """(out, in) of a linear in either form; of an embedding, (width, tokens)."""
    if isinstance(linear, nn.Embedding):
        return linear.embedding_dim, linear.num_embeddings
    if isinstance(linear, Conv1D):
        return linear.nf, linear.nx
    return linear.out_features, linear.in_features


def as_linear(linear: nn.Module) -> nn.Linear:
    """A plain linear over the memory of one in either form; itself, where it is one."""
    if isinstance(linear, nn.Linear):
        return linear
    made = nn.Linear(linear.nx, linear.nf, bias=False, device="meta")
    made.weight = nn.Parameter(linear.weight.detach().T, requires_grad=False)
    made.bias = linear.bias
    return made


def freeze(linear: nn.Module) -> FrozenLinear:
    """A linear in either form, frozen as it is, sharing its weight."""
    if isinstance(linear, FrozenLinear):
        return linear
    frozen = FrozenLinear.of(as_linear(linear))
    frozen.fan_in_fan_out = isinstance(linear, Conv1D)
    return frozen


def quantize_linear(quantizer: Quantizer, linear: nn.Module, name: str) -> FrozenLinear:
    """What a quantizer makes of a linear in either form; it is given W as (out, in)."""
    given = as_linear(linear)
    if given is not linear and not keeps_weights(quantizer):
        # Kernels read memory in its order, so W is turned in memory too.
        given.weight = nn.Parameter(given.weight.contiguous(), requires_grad=False)
    frozen = quantizer.quantize(given, name)
    frozen.fan_in_fan_out = isinstance(linear, Conv1D)
    return frozen


def keeps_weights(quantizer: object) -> bool:
    """Whether a quantizer leaves weights as they are, so that they lie in the base's own files."""
    return isinstance(quantizer, StockQuantization) and quantizer.quantization_config() == {}


def upright(tensors: Mapping[str, Tensor], linear: nn.Module) -> Mapping[str, Tensor]:
    """Tensors of an unquantized linear as its form stores them, with W as (out, in): a view."""
    if isinstance(linear, Conv1D) and "weight" in tensors:
        return {**tensors, "weight": tensors["weight"].T}
    return tensors


def plain_linear(weight: Tensor, bias: Tensor | None, *, fan_in_fan_out: bool) -> nn.Module:
    """A linear of a transformers model, frozen, in the dtype of its weight (out, in)."""
    out_features, in_features = weight.shape
    made: nn.Module
    if fan_in_fan_out:
        made = Conv1D(0, 0)  # its own start would be drawn from the global random state
        made.nf, made.nx = out_features, in_features
        weight = weight.T.contiguous()
        bias = weight.new_zeros(out_features) if bias is None else bias
    else:
        made = nn.Linear(in_features, out_features, bias=bias is not None, device="meta")
    made.weight = nn.Parameter(weight, requires_grad=False)
    if bias is not None:
        made.bias = nn.Parameter(bias.to(weight.dtype), requires_grad=False)
    return made


def unfrozen(frozen: nn.Module) -> nn.Module:
    """What may stand for a frozen layer in the model: itself, or the `Conv1D` that it is a view of."""
    if type(frozen) is FrozenLinear and frozen.fan_in_fan_out:
        return plain_linear(frozen.weight.detach(), frozen.bias, fan_in_fan_out=True)
    return frozen
