"""ResLoRA-is: each branch reads the input of the block before it too."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from edgelora.protocols import Factors
from edgelora_plugins.reslora.linked import LinkedAdapter, LinkedPair, adapted_norm


class InputShortcutLinear(LinkedPair):
    """y_n = W_n x_n + s B_n A_n dropout(x_n + x_{n−1}). ResLoRA, arXiv:2402.18039.

    The first of a chain reads its own input twice, in the paper and in the authors' code. As a plain
    low-rank product of x_n alone it can be written only where x_{n−1} is a multiple α_n of x_n.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) -> (..., out), in the dtype of the input."""
        received = self.relay.exchange(self.place, x)
        self.input_norms.observe(x)
        both = x + (received[0] if received else x)
        low = functional.linear(self.dropout(both), self.lora_A.to(x.dtype))
        return self.base(x) + functional.linear(low * self.scaling, self.lora_B.to(x.dtype))

    def approximations(self) -> tuple[str, ...]:
        """What α_n is taken from."""
        return "by_input_norm", "by_weight_norm"

    @torch.no_grad()
    def approximate_factors(self, way: str) -> Factors:
        """(1 + α_n) s B_n A_n, exact for the first of a chain, where α_n is 1.

        By input norms α_n is ‖x_{n−1}‖ / ‖x_n‖, means over the last training forwards. By weight norms it is
        ‖W + s B A‖ two blocks before over that of the block before, and 1 for the second of a chain; the
        authors' code leaves out s there, and adds the product to the frozen weight for good.
        """
        alpha = torch.ones((), device=self.lora_A.device)
        if self.earlier and way == "by_input_norm":
            alpha = self.input_ratio(self.earlier[0])
        elif len(self.earlier) > 1:
            alpha = adapted_norm(self.earlier[1]) / adapted_norm(self.earlier[0])
        return Factors((1 + alpha) * self.lora_A.float(), self.lora_B, self.scaling)


class InputShortcutAdapter(LinkedAdapter):
    """Input shortcuts between the layers of each chain."""

    layer = InputShortcutLinear

    def reach(self, length: int) -> int:
        """From the one before."""
        return 1
