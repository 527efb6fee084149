"""The OLoRA adapter."""

from __future__ import annotations

import torch

from edgelora.layers import FrozenLinear, LowRankLinear
from edgelora.layers.authoring import SiteAdapter
from edgelora.protocols import Factors, Site


class OloraLinear(LowRankLinear):
    """y = base(x) + s (B A − B₀ A₀) dropout(x), with W = Q R, B₀ = Q[:, :r] and A₀ = R[:r].

    The paper subtracts s B₀ A₀ from the base; here it is subtracted beside it, by frozen copies of the start.
    That is the same function, and the base stays what it was: the start is exact over a quantized base too,
    and the adapter is a plain low-rank product of rank 2r.

    Args:
        base: The frozen layer; W is what it dequantizes to.
        site: Its place, with rank and alpha.
        dropout: Probability with which an input element of the low-rank branch is zeroed while training.
    """

    def __init__(self, base: FrozenLinear, site: Site, *, dropout: float = 0.0) -> None:
        super().__init__(base, site, dropout=dropout)
        with torch.no_grad():
            # The first r columns of Q are those of W's first r columns alone; R's rows follow from them.
            columns = [some[:, : site.rank].clone() for _, some in base.pieces(torch.float32)]
            Q, _ = torch.linalg.qr(torch.cat(columns))
            A = torch.zeros(site.rank, base.in_features, device=Q.device)
            for rows, some in base.pieces(torch.float32):
                A.addmm_(Q[rows].T, some)
            self.lora_A.data = A.to(self.lora_A.device)
            self.lora_B.data = Q.contiguous().to(self.lora_B.device)
        self.register_buffer("start_A", self.lora_A.detach().clone())
        self.register_buffer("start_B", self.lora_B.detach().clone())

    def factors(self) -> Factors:
        """A (2r, in) and B (out, 2r), float32: ΔW = s (B (A − A₀) + (B − B₀) A₀) = s (B A − B₀ A₀).

        In differences, because the two products are nearly alike: rounded on their own to 16 bits, as they
        are when the input has 16, all that was learned would be lost in their rounding.
        """
        start_A = self.start_A.to(self.lora_A.dtype).float()
        start_B = self.start_B.to(self.lora_B.dtype).float()
        A, B = self.lora_A.float(), self.lora_B.float()
        return Factors(torch.cat([A - start_A, start_A]), torch.cat([B, B - start_B], dim=1), self.scaling)


class OloraAdapter(SiteAdapter):
    """OLoRA at every site."""

    layer = OloraLinear
