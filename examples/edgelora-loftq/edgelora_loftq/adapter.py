import torch
from torch import Tensor, nn

from edgelora.layers import FrozenLinear, LowRankLinear
from edgelora.layers.authoring import SiteAdapter
from edgelora.protocols import Site


class LoftqAdapter(SiteAdapter):
    def wrap_source(self, base: FrozenLinear, site: Site, source: Tensor) -> nn.Module:
        """Algorithm 1 with T = 1: scaling · B A is the best rank-r fit of W - Q(W)."""
        layer = LowRankLinear(base, site, dropout=self.options.dropout)
        lost = source.float() - base.dequantize(dtype=torch.float32)
        U, S, Vh = torch.linalg.svd(lost, full_matrices=False)
        root = (S[: site.rank] / layer.scaling).sqrt()
        layer.lora_A.data = root[:, None] * Vh[: site.rank]
        layer.lora_B.data = U[:, : site.rank] * root
        return layer
