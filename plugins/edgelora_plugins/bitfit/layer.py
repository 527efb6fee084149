"""The BitFit adapter."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from edgelora.layers import FrozenLinear
from edgelora.layers.authoring import SiteAdapter
from edgelora.protocols import Site


class BiasLinear(nn.Module):
    """y = base(x) + b: the bias of a linear learns, and nothing else. BitFit, arXiv:2106.10199, section 3.

    What learns is the change ``bias_change`` b (out,), float32, which starts at zero: the base's own bias
    stays what it is, and a linear without one gets one. The paper trains the biases of norms as well, which
    most models of today do not have.

    Args:
        base: The frozen layer.
    """

    def __init__(self, base: FrozenLinear) -> None:
        super().__init__()
        self.base = base
        self.bias_change = nn.Parameter(torch.zeros(base.out_features))

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) -> (..., out), in the dtype of the input."""
        y: Tensor = self.base(x)
        return y + self.bias_change.to(y.dtype)

    def delta(self, x: Tensor) -> Tensor:
        """The change b for every input: (..., in) -> (..., out)."""
        return self.bias_change.to(x.dtype).expand(*x.shape[:-1], -1)

    def merged(self, weight: Tensor) -> Tensor:
        """The weight stays what it is."""
        return weight

    def merged_bias(self, bias: Tensor | None) -> Tensor:
        """(out,): the bias that was there, and the change."""
        return self.bias_change if bias is None else (bias.float() + self.bias_change).to(bias.dtype)


class BiasAdapter(SiteAdapter):
    """A bias that learns at every site."""

    def wrap(self, base: FrozenLinear, site: Site) -> nn.Module:
        """Add it to what ``base`` gives."""
        return BiasLinear(base)
