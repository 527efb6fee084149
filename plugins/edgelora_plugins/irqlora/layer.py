"""Information elastic connection: LoRA with shortcuts that have two parameters."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from edgelora.errors import PlanError
from edgelora.layers import FrozenLinear, LowRankLinear
from edgelora.layers.authoring import SiteAdapter
from edgelora.protocols import Factors, Site
from edgelora_plugins.irqlora.options import ElasticOptions


class ElasticLinear(LowRankLinear):
    """h = A dropout(x) + β₁ pool(x), y = base(x) + s (B h + β₂ lift(h)). IR-QLoRA, equations 8 and 9.

    pool averages contiguous groups of the input, one for each rank component, and lift spreads each component
    over a contiguous group of the output. ``lora_beta1`` and ``lora_beta2`` (1,) start at zero.
    """

    def __init__(self, base: FrozenLinear, site: Site, *, dropout: float = 0.0) -> None:
        super().__init__(base, site, dropout=dropout)
        self.lora_beta1 = nn.Parameter(torch.zeros(1))
        self.lora_beta2 = nn.Parameter(torch.zeros(1))

    def delta(self, x: Tensor) -> Tensor:
        """The branch, (..., in) -> (..., out); dropout acts on A's input only."""
        low = functional.linear(self.dropout(x), self.lora_A.to(x.dtype))
        low = low + self.lora_beta1.to(x.dtype) * spread(x, self.rank)
        out_features = self.lora_B.shape[0]
        high = functional.linear(low, self.lora_B.to(x.dtype))
        return self.scaling * (high + self.lora_beta2.to(x.dtype) * spread(low, out_features))

    def factors(self) -> Factors:
        """A + β₁ P₁ and B + β₂ P₂, float32, P₁ and P₂ being the matrices of pool and lift: exact."""
        (rank, in_features), out_features = self.lora_A.shape, self.lora_B.shape[0]
        identity = torch.eye(rank, device=self.lora_A.device)
        # Averaging is spreading the other way, with the width of a group as divisor.
        pool = spread(identity, in_features) * (rank / in_features)
        lift = spread(identity, out_features).T
        A, B = self.lora_A.float(), self.lora_B.float()
        return Factors(A + self.lora_beta1 * pool, B + self.lora_beta2 * lift, self.scaling)


def spread(x: Tensor, size: int) -> Tensor:
    """Average ``x`` (..., n) over contiguous groups and repeat each mean, to (..., size).

    There are as many groups as n and ``size`` have for greatest common divisor: where one divides the other
    this is only an average, or only a repetition.

    >>> spread(torch.tensor([1.0, 2.0, 3.0, 4.0]), 2).tolist()
    [1.5, 3.5]
    >>> spread(torch.tensor([10.0, 20.0]), 6).tolist()
    [10.0, 10.0, 10.0, 20.0, 20.0, 20.0]
    """
    groups = math.gcd(x.shape[-1], size)
    return x.unflatten(-1, (groups, -1)).mean(dim=-1).repeat_interleave(size // groups, dim=-1)


class ElasticAdapter(SiteAdapter):
    """Elastic connections at every site."""

    layer = ElasticLinear
    options: ElasticOptions

    def wrap(self, base: FrozenLinear, site: Site) -> nn.Module:
        """Put the branch with its shortcuts beside ``base``.

        Raises:
            PlanError: The rank does not divide the layer's widths, and ``grouping`` is strict.
        """
        widths = base.in_features, base.out_features
        if self.options.grouping == "strict" and any(width % site.rank for width in widths):
            raise PlanError(
                f"iec: rank {site.rank} does not divide both widths of {site.name}, {widths[0]} in and "
                f"{widths[1]} out",
                fix=f"choose a rank that divides {math.gcd(*widths)}, or set adapter.grouping to gcd",
            )
        return super().wrap(base, site)
