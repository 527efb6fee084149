"""The adapter of AdaLoRA: a low-rank product in the form of a singular value decomposition."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from edgelora.layers import FrozenLinear, LowRankLinear
from edgelora.layers.authoring import SiteAdapter
from edgelora.protocols import Factors, Site
from edgelora_plugins.adalora.options import SvdOptions

START_DEVIATION = 0.02
RANK_OFFSET = 1e-5
"""Added to the rank under alpha by the authors, whose rank may be zero."""


class SvdLinear(LowRankLinear):
    """y = base(x) + s B (E ⊙ A) dropout(x), s = alpha / (rank + 1e-5). AdaLoRA, equation 3.

    ``lora_E`` (rank, 1) holds the singular values and starts at zero; ``lora_A`` and ``lora_B`` start normal
    with deviation 0.02. The rank in s is that of the start, however many components are pruned later.

    Args:
        base: The frozen layer.
        site: Its place, with rank and alpha.
        orthogonality: Weight γ of the regularization, equation 4.
        dropout: Probability with which an input element of the low-rank branch is zeroed while training.
    """

    def __init__(
        self, base: FrozenLinear, site: Site, *, orthogonality: float = 0.5, dropout: float = 0.0
    ) -> None:
        super().__init__(base, site, scaling=site.alpha / (site.rank + RANK_OFFSET), dropout=dropout)
        self.lora_E = nn.Parameter(torch.zeros(site.rank, 1))
        nn.init.normal_(self.lora_A, std=START_DEVIATION)
        nn.init.normal_(self.lora_B, std=START_DEVIATION)
        self.orthogonality = orthogonality
        self.sites = 1

    def factors(self) -> Factors:
        """A scaled by the singular values (rank, in), B (out, rank): ΔW = s B (E ⊙ A)."""
        return Factors(self.lora_A * self.lora_E, self.lora_B, self.scaling)

    def aux_losses(self) -> dict[str, Tensor]:
        """This site's part of γ times the mean over all A and B of ‖A Aᵀ − I‖ and ‖Bᵀ B − I‖ (Frobenius)."""
        identity = torch.eye(self.rank, device=self.lora_A.device, dtype=self.lora_A.dtype)
        distance = (self.lora_A @ self.lora_A.T - identity).norm()
        distance = distance + (self.lora_B.T @ self.lora_B - identity).norm()
        return {"orthogonality": self.orthogonality * distance / (2 * self.sites)}

    def rank_components(self) -> dict[str, tuple[nn.Parameter, int]]:
        """All three factors, with the dimension that counts the components."""
        return {"lora_A": (self.lora_A, 0), "lora_E": (self.lora_E, 0), "lora_B": (self.lora_B, 1)}

    @torch.no_grad()
    def zero_ranks(self, keep: Tensor) -> None:
        """Zero the singular values where ``keep`` (rank,) is false; they may grow again."""
        self.lora_E.masked_fill_(~keep[:, None], 0.0)


class SvdAdapter(SiteAdapter):
    """AdaLoRA's layer at every site."""

    options: SvdOptions

    def wrap(self, base: FrozenLinear, site: Site) -> nn.Module:
        """Put the decomposed product beside ``base``."""
        options = self.options
        return SvdLinear(base, site, orthogonality=options.orthogonality, dropout=options.dropout)

    def link(self, layers: Mapping[str, nn.Module]) -> None:
        """Tell each layer over how many the regularization is averaged."""
        for layer in layers.values():
            layer.sites = len(layers)
