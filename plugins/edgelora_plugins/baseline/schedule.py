"""Ranks that stay as they start."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn
from torch.optim import Optimizer

from edgelora import Options


class ConstantRanks:
    """Does nothing at every step."""

    def __init__(self, options: Options) -> None:
        pass

    def attach(self, layers: Mapping[str, nn.Module], optimizer: Optimizer, total_steps: int) -> None:
        """Nothing to prepare."""

    def before_forward(self, step: int) -> None:
        """Nothing to do."""

    def before_update(self, step: int) -> None:
        """Nothing to do."""

    def after_update(self, step: int) -> None:
        """Nothing to do."""

    def rank_pattern(self) -> dict[str, int]:
        """No rank was changed."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """Empty."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing to load."""
