"""Everything that changes while training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from edgelora.engine.inject import adapter_tensors
from edgelora.engine.whole_model import WholeModel
from edgelora.errors import CheckpointError
from edgelora.protocols import LossCombiner, RankScheduler


@dataclass(frozen=True, slots=True)
class TrainingState:
    """The adapter, its optimizer and the parts that keep state.

    The global random state is not here: it is a function of seed and step
    (`edgelora.engine.conditions.seed_everything`), and so is the order of the rows.
    """

    layers: Mapping[str, nn.Module]
    optimizer: Optimizer
    schedule: LambdaLR
    rank_scheduler: RankScheduler
    combiner: LossCombiner

    def dump(self) -> dict[str, Any]:
        """All of it, as tensors and plain values."""
        return {
            "adapter": adapter_tensors(self.layers),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "rank_scheduler": self.rank_scheduler.state_dict(),
            "combiner": self.combiner.state_dict(),
        }

    def load(self, state: dict[str, Any]) -> None:
        """Inverse of `dump`.

        Raises:
            CheckpointError: The checkpoint's tensors are not those of this adapter.
        """
        load_adapter_tensors(self.layers, state["adapter"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        self.rank_scheduler.load_state_dict(state["rank_scheduler"])
        self.combiner.load_state_dict(state["combiner"])


@torch.no_grad()
def load_adapter_tensors(layers: Mapping[str, nn.Module], tensors: Mapping[str, Tensor]) -> None:
    """Copy tensors made by `adapter_tensors` into the layers.

    Raises:
        CheckpointError: Names or shapes differ.
    """
    own = adapter_tensors(layers)
    if different := sorted(own.keys() ^ tensors.keys()):
        raise CheckpointError(
            f"the checkpoint and the adapter differ in tensors such as {different[0]!r}",
            fix="resume with the plugins the run was started with",
        )
    for name, tensor in own.items():
        if tensor.shape != tensors[name].shape:
            raise CheckpointError(
                f"{name} is {tuple(tensors[name].shape)} in the checkpoint and {tuple(tensor.shape)} here",
                fix="resume with the plugins and options the run was started with",
            )
    if isinstance(layers, WholeModel):
        layers.load(tensors)
        return
    for name, tensor in own.items():
        tensor.copy_(tensors[name])
