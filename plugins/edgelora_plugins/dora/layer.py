"""The DoRA adapter."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from edgelora.capabilities import PeftLayer
from edgelora.layers import FrozenLinear, LowRankPair
from edgelora.layers.authoring import SiteAdapter
from edgelora.protocols import Site

SMALLEST_NORM = 1e-12


class DoraLinear(LowRankPair):
    """y = (m / ‖V‖) ⊙ V x + b with V = W + s B A, the norm one per output row. DoRA, equation 5.

    The norm is taken as a constant in the backward pass (section 4.3). ``lora_magnitude_vector`` m (out,)
    starts at ‖W‖, so training starts at the base. Rows of zeros stay zeros.

    Args:
        base: The frozen layer; its ``dequantize`` is the only source of W.
        site: Its place, with rank and alpha.
        dropout: Probability with which an input element of all but the base's own product is zeroed.
    """

    def __init__(self, base: FrozenLinear, site: Site, *, dropout: float = 0.0) -> None:
        super().__init__(base, site, dropout=dropout)
        with torch.no_grad():
            squares = torch.cat([some.square().sum(dim=1) for _, some in base.pieces(torch.float32)])
        self.register_buffer("base_squares", squares, persistent=False)
        self.lora_magnitude_vector = nn.Parameter(squares.sqrt())
        self._norm: tuple[Any, Tensor] | None = None

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) -> (..., out), in the dtype of the input."""
        # Subtracted before it is rounded to the input's dtype: a magnitude learns less than that can hold.
        excess = (self.lora_magnitude_vector / self.norm() - 1).to(x.dtype)
        computed = self.base(x)
        if isinstance(self.dropout, nn.Identity) or not self.training:
            product = computed
        else:
            # Through the base, which keeps no dequantized weight for the backward pass.
            x = self.dropout(x)
            product = self.base(x)
        if self.base.bias is not None:
            product = product - self.base.bias.to(x.dtype)
        change = self._low_rank(x)
        return computed + change + excess * (product + change)

    def merged(self, weight: Tensor) -> Tensor:
        """(m / ‖V‖) ⊙ V for V = weight + s B A, (out, in), in the dtype of ``weight``."""
        direction = weight.float() + self.scaling * (self.lora_B.float() @ self.lora_A.float())
        norm = direction.norm(dim=1).clamp_min(SMALLEST_NORM)
        return ((self.lora_magnitude_vector.float() / norm)[:, None] * direction).to(weight.dtype)

    def peft_layer(self) -> PeftLayer:
        """PEFT's LoRA computes the same with ``use_dora``."""
        tensors = {
            "lora_A.weight": self.lora_A,
            "lora_B.weight": self.lora_B,
            "lora_magnitude_vector": self.lora_magnitude_vector,
        }
        return PeftLayer(tensors, self.rank, self.scaling * self.rank, {"use_dora": True})

    @torch.no_grad()
    def norm(self) -> Tensor:
        """‖W + s B A‖ of each row, (out,), float32, without the product B A.

        ‖W‖² + 2 s ⟨W, B A⟩ + s² ‖B A‖², row by row. It is kept while neither factor changes: generation and
        the micro-batches of one step need it once.
        """
        A, B = self.lora_A, self.lora_B
        if A.is_inference() or torch.is_inference_mode_enabled():
            # Tensors made here have no version to tell by, and could not be used in training.
            return self._row_norm(A.float(), B.float())
        state = (A.data_ptr(), A._version, B.data_ptr(), B._version)
        if self._norm is None or self._norm[0] != state:
            self._norm = state, self._row_norm(A.float(), B.float())
        return self._norm[1]

    def train(self, mode: bool = True) -> DoraLinear:
        """Set the mode, and forget the norm: between phases factors may change unseen, through ``.data``."""
        self._norm = None
        return super().train(mode)

    def _row_norm(self, A: Tensor, B: Tensor) -> Tensor:
        crossed = torch.cat([some @ A.T for _, some in self.base.pieces(torch.float32)]).mul_(B).sum(dim=1)
        changed = ((B @ (A @ A.T)) * B).sum(dim=1)
        squares = self.base_squares + 2 * self.scaling * crossed + self.scaling**2 * changed
        return squares.clamp_min(SMALLEST_NORM**2).sqrt()

    def _low_rank(self, x: Tensor) -> Tensor:
        low = functional.linear(x, self.lora_A.to(x.dtype))
        return functional.linear(low * self.scaling, self.lora_B.to(x.dtype))


class DoraAdapter(SiteAdapter):
    """DoRA at every site."""

    layer = DoraLinear
