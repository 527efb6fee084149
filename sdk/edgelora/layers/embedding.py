"""Embeddings whose rows never change, and a low-rank change of their rows."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from edgelora.layers.frozen import FrozenLinear
from edgelora.protocols import Factors, Site


class FrozenEmbedding(nn.Embedding):
    """Rows of E (tokens, width), frozen: what an adapter of an embedding wraps.

    Args:
        weight: E, (tokens, width); shared, not copied.
        padding_idx: As in `torch.nn.Embedding`.
    """

    def __init__(self, weight: Tensor, padding_idx: int | None = None) -> None:
        super().__init__(*weight.shape, padding_idx=padding_idx, _weight=weight, _freeze=True)

    @classmethod
    def of(cls, embedding: nn.Embedding) -> FrozenEmbedding:
        """Freeze ``embedding``; its weight stays the same parameter, which a head may be tied to."""
        made = cls(embedding.weight.detach(), embedding.padding_idx)
        made.weight = embedding.weight.requires_grad_(False)
        return made


class LowRankEmbedding(nn.Module):
    """y = E[ids] + scaling · (B A)ᵀ[ids]: LoRA (arXiv:2106.09685) on a lookup, as PEFT has it.

    An embedding is a linear on one-hot inputs with W = Eᵀ, (width, tokens), so its factors are those of a
    linear: A (rank, tokens), B (width, rank), ΔEᵀ = scaling · B A. Columns of A are looked up; nothing of the
    size of E is made. A starts at zero and B normal: a token that was never seen keeps its row.

    Args:
        base: The frozen embedding.
        site: Its place, with rank and alpha.
        scaling: Factor of the low-rank product; alpha / rank when left out.
    """

    def __init__(self, base: FrozenEmbedding, site: Site, *, scaling: float | None = None) -> None:
        super().__init__()
        self.base = base
        self.rank = site.rank
        self.scaling = site.alpha / site.rank if scaling is None else scaling
        self.lora_embedding_A = nn.Parameter(torch.zeros(site.rank, base.num_embeddings))
        # Drawn on the CPU, so that the start does not depend on the device.
        self.lora_embedding_B = nn.Parameter(torch.randn(base.embedding_dim, site.rank))

    @property
    def weight(self) -> nn.Parameter:
        """E, (tokens, width): models and their users ask an embedding for its device and size."""
        return self.base.weight

    def forward(self, ids: Tensor) -> Tensor:
        """int64 (...) -> (..., width), in the dtype of the base's rows."""
        rows = self.base(ids)
        low = functional.embedding(ids, self.lora_embedding_A.T, padding_idx=self.base.padding_idx)
        change = functional.linear((low * self.scaling).to(rows.dtype), self.lora_embedding_B.to(rows.dtype))
        return rows + change

    def factors(self) -> Factors:
        """A (rank, tokens), B (width, rank) and the scaling: ΔEᵀ = scaling · B A."""
        return Factors(self.lora_embedding_A, self.lora_embedding_B, self.scaling)


def frozen_part(layer: nn.Module) -> FrozenLinear | FrozenEmbedding:
    """What an adapted layer wraps."""
    return next(part for part in layer.modules() if isinstance(part, FrozenLinear | FrozenEmbedding))
