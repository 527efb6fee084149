"""The rank scheduler of DyLoRA."""

from __future__ import annotations

import random
from collections.abc import Mapping

from torch import nn
from torch.optim import Optimizer

from edgelora.capabilities import Nested
from edgelora.layers.authoring import PassiveScheduler
from edgelora.protocols import TrainingRun
from edgelora_plugins.qdylora.options import NestedOptions


class NestedRanks(PassiveScheduler):
    """Draws one rank b for each optimizer step and sets it in all layers. DyLoRA, algorithm 1.

    It holds for all micro-batches of the step, and for blocks that checkpointing computes again. After the
    update layers are at the rank they had before training, so that whatever is measured or packed is measured
    at that. A site with fewer components than b uses all it has.

    The draw follows from seed and step alone: processes agree on it, and a resumed run draws as before.
    """

    options: NestedOptions

    def attach(self, layers: Mapping[str, nn.Module], optimizer: Optimizer, run: TrainingRun) -> None:
        """Take the layers and note their ranks."""
        self.layers = {site: layer for site, layer in layers.items() if isinstance(layer, Nested)}
        self.resting = {site: layer.rank for site, layer in self.layers.items()}
        largest = max((layer.max_rank for layer in self.layers.values()), default=1)
        self.ranks = self.options.ranks or list(range(1, largest + 1))
        self.seed = run.seed

    def rank_of(self, step: int) -> int:
        """The rank drawn for a step, uniform over the ranks."""
        draw = random.Random(f"nested/{self.seed}/{step}").random()
        return self.ranks[int(draw * len(self.ranks))]

    def before_forward(self, step: int) -> None:
        """Set the step's rank."""
        b = self.rank_of(step)
        for layer in self.layers.values():
            layer.set_rank(min(b, layer.max_rank), frozen=self.options.frozen)

    def after_update(self, step: int) -> None:
        """Return to the rank that is measured and published."""
        for site, layer in self.layers.items():
            layer.set_rank(self.resting[site])

    def rank_pattern(self) -> dict[str, int]:
        """The published ranks, where they are not the largest."""
        if all(self.resting[site] == layer.max_rank for site, layer in self.layers.items()):
            return {}
        return dict(self.resting)
