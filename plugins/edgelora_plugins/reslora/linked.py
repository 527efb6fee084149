"""What the two shortcuts share that carry activations from block to block."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

import torch
from torch import Tensor, nn

from edgelora.layers import FrozenLinear, LowRankPair
from edgelora.layers.authoring import SiteAdapter
from edgelora.layers.relay import Relay
from edgelora.protocols import Site
from edgelora_plugins.reslora.chain import chains
from edgelora_plugins.reslora.norms import NormWindow


class LinkedPair(LowRankPair):
    """A low-rank branch that receives from those before it in its chain.

    Args:
        base: The frozen layer.
        site: Its place, with rank and alpha.
        dropout: Probability with which an input element of the low-rank branch is zeroed while training.

    Attributes:
        earlier: The layers before it, nearest first. In a tuple: as submodules they would be in the state of
            each layer behind them.
        input_norms: Of what it is given.
    """

    earlier: tuple[Self, ...] = ()

    def __init__(self, base: FrozenLinear, site: Site, *, dropout: float = 0.0) -> None:
        super().__init__(base, site, dropout=dropout)
        self.name = site.name
        self.relay, self.place = Relay([site.name], 0), 0
        self.input_norms = NormWindow()

    def follow(self, earlier: tuple[Self, ...], relay: Relay) -> None:
        """Come after ``earlier``, nearest first, in the chain of ``relay``."""
        self.earlier, self.relay, self.place = earlier, relay, len(earlier)

    def neighbours(self) -> tuple[str, ...]:
        """The sites it reads, nearest first."""
        return self.relay.before(self.place)

    def input_ratio(self, layer: Self) -> Tensor:
        """How large what ``layer`` is given is, relative to what this layer is given; a scalar.

        Raises:
            ExportUnsupported: They never computed a training batch.
        """
        return layer.input_norms.mean(layer.name) / self.input_norms.mean(self.name)


class LinkedAdapter(SiteAdapter):
    """Links the layers of each chain."""

    def reach(self, length: int) -> int:
        """From how many before it a layer of a chain receives."""
        raise NotImplementedError

    def link(self, layers: Mapping[str, nn.Module]) -> None:
        """Give the layers of each chain a relay, and let each know those before it."""
        for chain in chains(layers):
            relay = Relay(list(chain), self.reach(len(chain)))
            earlier: tuple[Any, ...] = ()
            for layer in chain.values():
                layer.follow(earlier, relay)
                earlier = (layer, *earlier)


@torch.no_grad()
def adapted_norm(layer: LowRankPair) -> Tensor:
    """‖W + s B A‖, Frobenius, a scalar; W is read in pieces."""
    A, B = layer.lora_A.float(), layer.lora_B.float()
    squares = [
        torch.addmm(some.to(A.device), B[rows], A, alpha=layer.scaling).square().sum()
        for rows, some in layer.base.pieces(torch.float32)
    ]
    return torch.stack(squares).sum().sqrt()
