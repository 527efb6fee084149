"""The DoRA adapter."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

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
            weight = base.dequantize(dtype=torch.float32)
            squares = weight.square().sum(dim=1)
        self.register_buffer("base_squares", squares, persistent=False)
        self.lora_magnitude_vector = nn.Parameter(squares.sqrt())
        self._norm: tuple[Any, Tensor] | None = None

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) -> (..., out), in the dtype of the input."""
        gain = (self.lora_magnitude_vector / self.norm()).to(x.dtype)
        computed = self.base(x)
        if isinstance(self.dropout, nn.Identity) or not self.training:
            without_bias = computed if self.base.bias is None else computed - self.base.bias.to(x.dtype)
            return computed + (gain - 1) * without_bias + gain * self._low_rank(x)
        dropped = self.dropout(x)
        without_bias = functional.linear(dropped, self.base.dequantize(dtype=x.dtype))
        return computed + (gain - 1) * without_bias + gain * self._low_rank(dropped)

    def merged(self, weight: Tensor) -> Tensor:
        """(m / ‖V‖) ⊙ V for V = weight + s B A, (out, in), in the dtype of ``weight``."""
        direction = weight.float() + self.scaling * (self.lora_B.float() @ self.lora_A.float())
        norm = direction.norm(dim=1).clamp_min(SMALLEST_NORM)
        return ((self.lora_magnitude_vector.float() / norm)[:, None] * direction).to(weight.dtype)

    def peft_settings(self) -> dict[str, Any]:
        """PEFT's LoRA computes the same with ``use_dora``."""
        return {"use_dora": True}

    @torch.no_grad()
    def norm(self) -> Tensor:
        """‖W + s B A‖ of each row, (out,), float32, without the product B A.

        ‖W‖² + 2 s ⟨W, B A⟩ + s² ‖B A‖², row by row. It is kept while neither factor changes: generation and
        the micro-batches of one step need it once.
        """
        A, B = self.lora_A, self.lora_B
        state = (A.data_ptr(), A._version, B.data_ptr(), B._version)
        if self._norm is None or self._norm[0] != state:
            A, B = A.float(), B.float()
            crossed = ((self.base.dequantize(dtype=torch.float32) @ A.T) * B).sum(dim=1)
            changed = ((B @ (A @ A.T)) * B).sum(dim=1)
            squares = self.base_squares + 2 * self.scaling * crossed + self.scaling**2 * changed
            self._norm = state, squares.clamp_min(SMALLEST_NORM**2).sqrt()
        return self._norm[1]

    def _low_rank(self, x: Tensor) -> Tensor:
        low = functional.linear(x, self.lora_A.to(x.dtype))
        return functional.linear(low * self.scaling, self.lora_B.to(x.dtype))


class DoraAdapter(SiteAdapter):
    """DoRA at every site."""

    layer = DoraLinear
