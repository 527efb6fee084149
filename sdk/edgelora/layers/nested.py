"""A low-rank layer whose first components are a whole adapter of their own, at every rank."""

from __future__ import annotations

import torch

from edgelora.errors import PlanError
from edgelora.layers.frozen import FrozenLinear
from edgelora.layers.low_rank import LowRankLinear
from edgelora.protocols import Factors, Site


class NestedLowRankLinear(LowRankLinear):
    """y = base(x) + alpha / b · B[:, :b] A[:b] dropout(x), for any b from 1 to ``max_rank``.

    DyLoRA, arXiv:2210.07558, section 4. Its authors multiply each factor by √(R / b) and the product by
    alpha / R, R being the largest rank: together alpha / b, the scaling of LoRA of rank b. So the first b
    rows of A and columns of B are plain LoRA of rank b with the same alpha.

    Components above b get gradients of exactly zero, which an optimizer with momentum or weight decay still
    acts upon, as the authors' does.

    Args:
        base: The frozen layer.
        site: Its place, with the largest rank and alpha.
        dropout: Probability with which an input element of the low-rank branch is zeroed while training.

    Attributes:
        max_rank: Components there are.
        rank: Components in use; all at first.
        scaling: alpha / rank.
    """

    def __init__(self, base: FrozenLinear, site: Site, *, dropout: float = 0.0) -> None:
        super().__init__(base, site, dropout=dropout)
        self.max_rank = site.rank
        self.alpha = site.alpha
        self.set_rank(site.rank)

    def set_rank(self, b: int, frozen: bool = False) -> None:
        """Use the first ``b`` components; with ``frozen`` only component ``b`` learns.

        Raises:
            PlanError: There are not so many.
        """
        if not 1 <= b <= self.max_rank:
            raise PlanError(
                f"rank {b} is none of a layer with {self.max_rank} components",
                fix=f"choose a rank from 1 to {self.max_rank}",
            )
        self.rank = b
        self.scaling = self.alpha / b
        self.frozen = frozen

    def factors(self) -> Factors:
        """A[:b] (b, in), B[:, :b] (out, b) and alpha / b."""
        A, B = self.lora_A[: self.rank], self.lora_B[:, : self.rank]
        if self.frozen:
            A = torch.cat([A[:-1].detach(), A[-1:]])
            B = torch.cat([B[:, :-1].detach(), B[:, -1:]], dim=1)
        return Factors(A, B, self.scaling)
