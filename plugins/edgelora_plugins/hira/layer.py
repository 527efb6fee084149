"""The HiRA adapter."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from edgelora.capabilities import PeftLayer
from edgelora.layers import FrozenLinear
from edgelora.layers.authoring import SiteAdapter
from edgelora.protocols import Site
from edgelora_plugins.hira.product import hadamard_product


class HiraLinear(nn.Module):
    """y = x (W ⊙ (1 + B A))ᵀ + b, computed as base(x) + (W ⊙ B A) dropout(x). HiRA, ICLR 2025, section 3.

    The rank of the change W ⊙ B A is up to rank(W) · rank, its parameters are as few as LoRA's. It is not
    scaled. Where W is zero it stays zero. ``hira_A`` (rank, in) starts uniform in ±1/√in and ``hira_B``
    (out, rank) at zero, so training starts at the base.

    Args:
        base: The frozen layer; its ``pieces`` are the only source of W.
        site: Its place, with the rank; its alpha is not used.
        dropout: Probability with which an input element of the Hadamard branch is zeroed while training.
    """

    def __init__(self, base: FrozenLinear, site: Site, *, dropout: float = 0.0) -> None:
        super().__init__()
        self.base = base
        self.rank = site.rank
        self.dropout = nn.Dropout(dropout) if dropout else nn.Identity()
        # Drawn on the CPU, so that the start does not depend on the device.
        self.hira_A = nn.Parameter(torch.empty(site.rank, base.in_features))
        self.hira_B = nn.Parameter(torch.zeros(base.out_features, site.rank))
        nn.init.kaiming_uniform_(self.hira_A, a=math.sqrt(5))

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) -> (..., out), in the dtype of the input."""
        # Apart from the base's product: 1 + B A, rounded to 16 bits, would lose most of B A.
        return self.base(x) + hadamard_product(self.base, self.dropout(x), self.hira_A, self.hira_B)

    def merged(self, weight: Tensor) -> Tensor:
        """W ⊙ (1 + B A) for W = weight, (out, in), in the dtype of ``weight``; computed in float32."""
        gain = self.hira_B.float() @ self.hira_A.float()
        return gain.add_(1).to(weight.device).mul_(weight).to(weight.dtype)

    def peft_layer(self) -> PeftLayer:
        """PEFT has a method of its own for it, which knows no alpha."""
        tensors = {"hira_A": self.hira_A, "hira_B": self.hira_B}
        return PeftLayer(tensors, self.rank, float(self.rank), peft_type="HIRA", peft_versions=">=0.20")


class HiraAdapter(SiteAdapter):
    """HiRA at every site."""

    layer = HiraLinear
