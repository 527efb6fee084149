"""What a quantizer keeps of a weight, found by asking it to quantize a small one."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cache

import torch
from torch import Tensor, nn

from edgelora.layers.stored import Shapes
from edgelora.protocols import Quantizer

SAMPLED_NUMBERS = 1 << 18
"""Numbers in the smaller of the two weights that are quantized to learn what a large one will take."""


@cache
def state_shapes(quantizer: Quantizer, shape: tuple[int, int], dtype: torch.dtype) -> Shapes:
    """Shapes and dtypes of the tensors a quantizer keeps of a weight (out, in), found by quantizing.

    A small weight is quantized whole. Of a large one two samples of its rows are, and each dimension of what
    they take is continued in a straight line.
    """
    out, in_ = shape
    rows = math.ceil(SAMPLED_NUMBERS / in_)
    if out <= 4 * rows:
        return _shapes(_quantized(quantizer, shape, dtype))
    small = _shapes(_quantized(quantizer, (rows, in_), dtype))
    large = _shapes(_quantized(quantizer, (2 * rows, in_), dtype))
    return {
        name: (_continued(size, large[name][0], out / rows), kind) for name, (size, kind) in small.items()
    }


@torch.no_grad()
def _quantized(quantizer: Quantizer, shape: tuple[int, int], dtype: torch.dtype) -> Mapping[str, Tensor]:
    out, in_ = shape
    # A caller may be building a model without memory; a sample is real.
    with torch.device("cpu"):
        linear = nn.utils.skip_init(nn.Linear, in_, out, bias=False, dtype=dtype)
        linear.weight.normal_(std=0.02, generator=torch.Generator().manual_seed(0))
        state: Mapping[str, Tensor] = quantizer.quantize(linear, "sample").state_dict()
    return state


def _shapes(tensors: Mapping[str, Tensor]) -> Shapes:
    return {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in tensors.items()}


def _continued(small: tuple[int, ...], large: tuple[int, ...], times: float) -> tuple[int, ...]:
    return tuple(math.ceil(a + (b - a) * (times - 1)) for a, b in zip(small, large, strict=True))
