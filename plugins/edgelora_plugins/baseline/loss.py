"""The sum of all losses."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from edgelora import Options
from edgelora.protocols import Measurement


class LossSum:
    """L = Σ task losses + Σ auxiliary losses."""

    def __init__(self, options: Options) -> None:
        pass

    def __call__(self, losses: Mapping[str, Tensor], step: int) -> Tensor:
        """Scalar sum."""
        return torch.stack(list(losses.values())).sum()

    def after_evaluation(self, measurements: Mapping[str, Measurement]) -> None:
        """Nothing to learn from."""

    def parameters(self) -> Iterable[nn.Parameter]:
        """None."""
        return ()

    def state_dict(self) -> dict[str, Any]:
        """Empty."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing to load."""
