"""ResLoRA-bs: the branches of the blocks before are added to each block's own."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice

import torch
from torch import Tensor, nn
from torch.nn import functional

from edgelora.layers import LowRankLinear
from edgelora.layers.authoring import SiteAdapter
from edgelora.protocols import Factors
from edgelora_plugins.reslora.chain import chains
from edgelora_plugins.reslora.options import ShortcutOptions


class BlockShortcutLinear(LowRankLinear):
    """y_n = W_n x_n + Σ_k s B_{n−k} A_{n−k} dropout(x_n), k from 0 to p. ResLoRA, arXiv:2402.18039.

    It reads other layers' factors, never their inputs: the change is one low-rank product, whose gradient
    reaches the factors of the layers before.

    Args:
        base: The frozen layer.
        site: Its place, with rank and alpha.
        dropout: Probability with which an input element is zeroed while training, for each branch anew.

    Attributes:
        earlier: The layers before it, nearest first. In a tuple: as submodules they would be in the state of
            each layer behind them.
    """

    earlier: tuple[LowRankLinear, ...] = ()

    def delta(self, x: Tensor) -> Tensor:
        """The branches added up: (..., in) -> (..., out)."""
        change = _branch(self, self.dropout(x))
        for layer in self.earlier:
            change = change + _branch(layer, self.dropout(x))
        return change

    def factors(self) -> Factors:
        """A ((p + 1) · rank, in) and B (out, (p + 1) · rank): the factors of all branches side by side."""
        layers = (self, *self.earlier)
        A = torch.cat([layer.lora_A for layer in layers])
        B = torch.cat([layer.lora_B * (layer.scaling / self.scaling) for layer in layers], dim=1)
        return Factors(A, B, self.scaling)


def _branch(layer: LowRankLinear, x: Tensor) -> Tensor:
    low = functional.linear(x, layer.lora_A.to(x.dtype))
    return functional.linear(low * layer.scaling, layer.lora_B.to(x.dtype))


class BlockShortcutAdapter(SiteAdapter):
    """Block shortcuts between the layers of each chain."""

    layer = BlockShortcutLinear
    options: ShortcutOptions

    def link(self, layers: Mapping[str, nn.Module]) -> None:
        """Let each layer know those before it in its chain."""
        for chain in chains(layers):
            earlier: tuple[LowRankLinear, ...] = ()
            for layer in chain.values():
                layer.earlier = tuple(islice(earlier, self.options.reach(len(chain))))
                earlier = (layer, *earlier)
