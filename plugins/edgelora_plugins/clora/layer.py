"""The adapter of C-LoRA."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from edgelora.layers import FrozenLinear, LowRankLinear
from edgelora.layers.authoring import SiteAdapter
from edgelora.protocols import Factors, Site
from edgelora_plugins.clora.options import ContinualOptions
from edgelora_plugins.clora.penalty import overlap


class ContinualLinear(LowRankLinear):
    """y = base(x) + H x + s B A x, H = Σ ΔW of the tasks before. C-LoRA, arXiv:2304.06027.

    Training starts at base plus past. The paper adds each change to H as a matrix; here H stays the sum of
    products that it is, ``past_A`` (ranks, in) and ``past_B`` (out, ranks): so the adapter is low-rank too.
    Without a past it is LoRA, and its penalty is 0.

    Args:
        base: The frozen layer.
        site: Its place, with rank, alpha and past.
        penalty: Weight λ of the forgetting penalty.
        dropout: Probability with which an input element of the new branch is zeroed while training.
    """

    def __init__(self, base: FrozenLinear, site: Site, *, penalty: float = 0.0, dropout: float = 0.0) -> None:
        super().__init__(base, site, dropout=dropout)
        self.penalty = penalty
        self.past_ranks = [len(factors.A) for factors in site.past]
        has_past = bool(site.past)
        self.register_buffer(
            "past_A", torch.cat([factors.A for factors in site.past]).float() if has_past else None
        )
        scaled = [factors.B.float() * factors.scaling for factors in site.past]
        self.register_buffer("past_B", torch.cat(scaled, dim=1) if has_past else None)

    def delta(self, x: Tensor) -> Tensor:
        """The past's branch and the new one, which alone has dropout: (..., in) -> (..., out)."""
        low = functional.linear(self.dropout(x), self.lora_A.to(x.dtype)) * self.scaling
        own = functional.linear(low, self.lora_B.to(x.dtype))
        if not self.past_ranks:
            return own
        before = functional.linear(functional.linear(x, self.past_A.to(x.dtype)), self.past_B.to(x.dtype))
        return before + own

    def factors(self) -> Factors:
        """Past and new factors stacked, (ranks + rank, in) and (out, ranks + rank)."""
        if not self.past_ranks:
            return super().factors()
        B = self.lora_B.float() * self.scaling
        return Factors(torch.cat([self.past_A, self.lora_A.float()]), torch.cat([self.past_B, B], dim=1), 1.0)

    def past_factors(self) -> tuple[Factors, ...]:
        """Of each adapter before, the oldest first."""
        if not self.past_ranks:
            return ()
        As, Bs = self.past_A.split(self.past_ranks), self.past_B.split(self.past_ranks, dim=1)
        return tuple(Factors(A, B, 1.0) for A, B in zip(As, Bs, strict=True))

    def aux_losses(self) -> dict[str, Tensor]:
        """λ ‖ |H| ⊙ s B A ‖² of this site; the penalties of sites add up."""
        if not self.past_ranks or not self.penalty:
            return {"forgetting": torch.zeros((), device=self.lora_A.device)}
        change = Factors(self.lora_A, self.lora_B, self.scaling)
        return {"forgetting": self.penalty * overlap(change, Factors(self.past_A, self.past_B, 1.0))}


class ContinualAdapter(SiteAdapter):
    """C-LoRA's layer at every site."""

    options: ContinualOptions

    def wrap(self, base: FrozenLinear, site: Site) -> nn.Module:
        """Put the new product beside ``base`` and the past of its site."""
        return ContinualLinear(base, site, penalty=self.options.penalty, dropout=self.options.dropout)
