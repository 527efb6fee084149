"""Parts that do nothing of their own: authors subclass them and write only what their method changes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from edgelora.layers.frozen import FrozenLinear
from edgelora.layers.low_rank import LowRankLinear
from edgelora.options import AdapterOptions, Options
from edgelora.protocols import Measurement, Site, TrainingRun


class SiteAdapter:
    """Puts one ``layer`` around each site; sites do not know each other.

    A method whose layer takes what `LowRankLinear` takes sets ``layer`` and is done; others override `wrap`.
    """

    layer: ClassVar[type[nn.Module]] = LowRankLinear

    def __init__(self, options: AdapterOptions) -> None:
        self.options = options

    def wrap(self, base: FrozenLinear, site: Site) -> nn.Module:
        """``layer(base, site, dropout=...)``."""
        return self.layer(base, site, dropout=self.options.dropout)

    def link(self, layers: Mapping[str, nn.Module]) -> None:
        """Nothing to link."""


class PassiveScheduler:
    """A rank scheduler that does nothing at any step and keeps no state."""

    def __init__(self, options: Options) -> None:
        self.options = options

    def attach(self, layers: Mapping[str, nn.Module], optimizer: Optimizer, run: TrainingRun) -> None:
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


class SummingCombiner:
    """L = Σ task losses + Σ auxiliary losses; learns nothing and keeps no state."""

    def __init__(self, options: Options) -> None:
        self.options = options

    def attach(self, run: TrainingRun) -> None:
        """Any tasks will do."""

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
