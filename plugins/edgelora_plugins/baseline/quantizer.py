"""No quantization."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from edgelora import Options
from edgelora.layers import FrozenLinear


class Unquantized:
    """Freezes linears as they are."""

    def __init__(self, options: Options) -> None:
        pass

    def quantize(self, linear: nn.Linear, name: str) -> FrozenLinear:
        """Share the weight, frozen."""
        return FrozenLinear.of(linear)

    def quantization_config(self) -> dict[str, Any]:
        """Empty: transformers keeps them too."""
        return {}

    def stock_tensors(self, layer: FrozenLinear) -> dict[str, Tensor]:
        """``weight`` and ``bias``, as everybody calls them."""
        return layer.state_dict()

    def own_tensors(self, stock: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The same."""
        return dict(stock)

    def restore(
        self, tensors: Mapping[str, Tensor], name: str, shape: tuple[int, int], dtype: torch.dtype
    ) -> FrozenLinear:
        """Take ``weight`` and ``bias`` as they are."""
        return FrozenLinear(tensors["weight"], tensors.get("bias"), shape[1], shape[0])
