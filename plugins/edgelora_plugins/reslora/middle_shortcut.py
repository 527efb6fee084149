"""ResLoRA-ms: what the first factors before it computed goes through each block's second factor."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from edgelora.layers import FrozenLinear
from edgelora.protocols import Factors, Site
from edgelora_plugins.reslora.linked import LinkedAdapter, LinkedPair
from edgelora_plugins.reslora.norms import NormWindow
from edgelora_plugins.reslora.options import ShortcutOptions


class MiddleShortcutLinear(LinkedPair):
    """y_n = W_n x_n + s B_n Σ_k A_{n−k} dropout(x_{n−k}), k from 0 to p. ResLoRA, arXiv:2402.18039.

    What A_{n−k} computed in the same forward is read with its gradient: it reaches earlier blocks' A.

    Attributes:
        state_norms: Of what its first factor computes.
    """

    def __init__(self, base: FrozenLinear, site: Site, *, dropout: float = 0.0) -> None:
        super().__init__(base, site, dropout=dropout)
        self.state_norms = NormWindow()

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) -> (..., out), in the dtype of the input."""
        state = functional.linear(self.dropout(x), self.lora_A.to(x.dtype))
        received = self.relay.exchange(self.place, state)
        self.input_norms.observe(x)
        self.state_norms.observe(state)
        low = sum(received, state)
        return self.base(x) + functional.linear(low * self.scaling, self.lora_B.to(x.dtype))

    def approximations(self) -> tuple[str, ...]:
        """Whose norms tell how large what is received is."""
        return "by_input_norm", "by_rank_state_norm"

    @torch.no_grad()
    def approximate_factors(self, way: str) -> Factors:
        """By input norms s B_n (A_n + Σ_k f_{n−k} / f_n · A_{n−k}), f being ‖x‖; exact for the first.

        By rank state norms (1 + Σ_k f_{n−k} / f_n) s B_n A_n, f being ‖x Aᵀ‖. Norms are means over the last
        training forwards.
        """
        A = self.lora_A.float()
        for layer in self.earlier[: self.relay.reach]:
            if way == "by_input_norm":
                A = A + self.input_ratio(layer) * layer.lora_A.float()
            else:
                ratio = layer.state_norms.mean(layer.name) / self.state_norms.mean(self.name)
                A = A + ratio * self.lora_A.float()
        return Factors(A, self.lora_B, self.scaling)


class MiddleShortcutAdapter(LinkedAdapter):
    """Middle shortcuts between the layers of each chain."""

    layer = MiddleShortcutLinear
    options: ShortcutOptions

    def reach(self, length: int) -> int:
        """From as many as the options say."""
        return self.options.reach(length)
