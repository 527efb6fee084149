"""The LoRA adapter."""

from __future__ import annotations

import math

from torch import nn

from edgelora.layers import FrozenEmbedding, FrozenLinear, LowRankEmbedding, LowRankLinear
from edgelora.layers.authoring import SiteAdapter
from edgelora.protocols import Site
from edgelora_plugins.lora.options import LoraOptions


class LoraAdapter(SiteAdapter):
    """y = base(x) + s · B A dropout(x).

    s = alpha / rank (arXiv:2106.09685), or alpha / √rank under ``rank_stabilized`` (arXiv:2312.03732).
    """

    options: LoraOptions

    def wrap(self, base: FrozenLinear, site: Site) -> nn.Module:
        """Put the low-rank branch beside ``base``."""
        return LowRankLinear(base, site, scaling=self._scaling(site), dropout=self.options.dropout)

    def wrap_embedding(self, base: FrozenEmbedding, site: Site) -> nn.Module:
        """The same of looked-up rows, without dropout, as in PEFT."""
        return LowRankEmbedding(base, site, scaling=self._scaling(site))

    def _scaling(self, site: Site) -> float:
        return site.alpha / (math.sqrt(site.rank) if self.options.rank_stabilized else site.rank)
