import random
from collections.abc import Mapping

from torch import nn
from torch.optim import Optimizer

from edgelora.layers.authoring import PassiveScheduler
from edgelora.protocols import TrainingRun

from .options import LisaOptions


class LayerSampling(PassiveScheduler):
    """Algorithm 1, drawing adapted sites where the paper draws whole blocks.

    The draw follows from the step alone, so there is no state to resume. Where there is no gradient, the
    optimizer leaves the parameter and its momentum as they are.
    """

    options: LisaOptions

    def attach(self, layers: Mapping[str, nn.Module], optimizer: Optimizer, run: TrainingRun) -> None:
        self.layers, self.seed = layers, run.seed

    def learning(self, step: int) -> set[str]:
        """Names of the sites that learn at a step."""
        draw = random.Random(f"{self.seed}/{step // self.options.every}")
        return set(draw.sample(sorted(self.layers), min(self.options.active, len(self.layers))))

    def before_update(self, step: int) -> None:
        learning = self.learning(step)
        for name, layer in self.layers.items():
            if name not in learning:
                layer.zero_grad(set_to_none=True)
