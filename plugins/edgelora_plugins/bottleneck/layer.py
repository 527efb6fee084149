"""The bottleneck adapter."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from edgelora.errors import PluginBug
from edgelora.layers import FrozenLinear
from edgelora.layers.authoring import SiteAdapter
from edgelora.protocols import Site
from edgelora_plugins.bottleneck.options import BottleneckOptions
from edgelora_plugins.bottleneck.sites import sublayer_outputs

ACTIVATIONS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "gelu": functional.gelu,
    "relu": functional.relu,
    "silu": functional.silu,
    "tanh": torch.tanh,
}


class BottleneckLinear(nn.Module):
    """y = h + s · (U σ(D dropout(h) + d) + u), with h = base(x). arXiv:1902.00751, section 2.1.

    The adapter follows the linear that ends a sublayer, before the residual connection. ``up`` U (out, rank)
    and ``up_bias`` u start at zero, so that training starts at the base exactly; the paper starts both
    projections near zero instead. ``down`` D (rank, out) starts as a linear does.

    Args:
        base: The frozen layer.
        site: Its place; the rank is the width of the bottleneck, s = alpha / rank.
        activation: σ.
        dropout: Probability with which an element of h is zeroed in the bottleneck's input while training.
    """

    def __init__(
        self,
        base: FrozenLinear,
        site: Site,
        *,
        activation: Callable[[Tensor], Tensor] = functional.gelu,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.base = base
        self.scaling = site.alpha / site.rank
        self.activation = activation
        self.dropout = nn.Dropout(dropout) if dropout else nn.Identity()
        # Drawn on the CPU, so that the start does not depend on the device.
        self.down = nn.Parameter(torch.empty(site.rank, base.out_features))
        self.down_bias = nn.Parameter(torch.zeros(site.rank))
        self.up = nn.Parameter(torch.zeros(base.out_features, site.rank))
        self.up_bias = nn.Parameter(torch.zeros(base.out_features))
        nn.init.kaiming_uniform_(self.down, a=math.sqrt(5))

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) -> (..., out), in the dtype of the input."""
        h = self.base(x)
        low = functional.linear(self.dropout(h), self.down.to(h.dtype), self.down_bias.to(h.dtype))
        added = functional.linear(self.activation(low), self.up.to(h.dtype), self.up_bias.to(h.dtype))
        return h + self.scaling * added


class BottleneckAdapter(SiteAdapter):
    """A bottleneck after every site."""

    options: BottleneckOptions

    def wrap(self, base: FrozenLinear, site: Site) -> nn.Module:
        """Let the bottleneck follow ``base``."""
        activation = ACTIVATIONS[self.options.activation]
        return BottleneckLinear(base, site, activation=activation, dropout=self.options.dropout)

    def named_targets(self, word: str, linears: Sequence[str]) -> list[str]:
        """Those that end a sublayer, for ``outputs``."""
        if word != "outputs":
            raise PluginBug(f"bottleneck knows no linears called {word!r}", fix="tell its author")
        return sublayer_outputs(linears)
