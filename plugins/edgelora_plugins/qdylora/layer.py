"""The adapter of DyLoRA."""

from __future__ import annotations

from torch import nn

from edgelora.layers import FrozenLinear
from edgelora.layers.authoring import SiteAdapter
from edgelora.layers.nested import NestedLowRankLinear
from edgelora.protocols import Site
from edgelora_plugins.qdylora.options import DyloraOptions


class DyloraAdapter(SiteAdapter):
    """y = base(x) + alpha / b · B[:, :b] A[:b] dropout(x), at ``published_rank`` until a scheduler sets b."""

    options: DyloraOptions

    def wrap(self, base: FrozenLinear, site: Site) -> nn.Module:
        """Put the nested branch beside ``base``; sites of a lower rank use all they have."""
        layer = NestedLowRankLinear(base, site, dropout=self.options.dropout)
        layer.set_rank(min(self.options.published_rank or site.rank, site.rank))
        return layer
