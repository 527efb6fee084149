"""The low-rank adapter layer and the merge that follows from its factors.

x ──┬──────────────► W (frozen) ────────────────────────── + ──► y
    └─► dropout ─► A (rank, in) ─► B (out, rank) ─► × scaling ┘
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional

from edgelora.capabilities import Additive, ApproximatelyLowRank, LowRank, Mergeable, MergesBias
from edgelora.errors import ExportUnsupported
from edgelora.layers.embedding import FrozenEmbedding, frozen_part
from edgelora.layers.frozen import FrozenLinear
from edgelora.protocols import Factors, Site


class LowRankPair(nn.Module):
    """A frozen layer with two trainable factors beside it; subclasses say what is computed with them.

    ``lora_A`` (rank, in) starts uniform in ±1/√in and ``lora_B`` (out, rank) at zero, as in LoRA
    (arXiv:2106.09685, section 4.1).

    Args:
        base: The frozen layer.
        site: Its place, with rank and alpha.
        scaling: Factor of the low-rank product; alpha / rank when left out.
        dropout: Probability with which an input element of the low-rank branch is zeroed while training.
    """

    def __init__(
        self, base: FrozenLinear, site: Site, *, scaling: float | None = None, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.base = base
        self.rank = site.rank
        self.scaling = site.alpha / site.rank if scaling is None else scaling
        self.dropout = nn.Dropout(dropout) if dropout else nn.Identity()
        # Drawn on the CPU, so that the start does not depend on the device.
        self.lora_A = nn.Parameter(torch.empty(site.rank, base.in_features))
        self.lora_B = nn.Parameter(torch.zeros(base.out_features, site.rank))
        nn.init.kaiming_uniform_(self.lora_A, a=math.sqrt(5))


class LowRankLinear(LowRankPair):
    """y = base(x) + scaling · B A dropout(x). LoRA, arXiv:2106.09685, section 4.1.

    Training starts at the base. A method whose change is another low-rank product overrides `factors`; one
    whose change is not a product of two factors overrides `delta`, and `factors` with it or not at all.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) -> (..., out), in the dtype of the input."""
        return self.base(x) + self.delta(x)

    def delta(self, x: Tensor) -> Tensor:
        """The low-rank branch: (..., in) -> (..., out), computed in the dtype of the input."""
        A, B, scaling = self.factors()
        low = functional.linear(self.dropout(x), A.to(x.dtype))
        return functional.linear(low * scaling, B.to(x.dtype))

    def factors(self) -> Factors:
        """A (rank, in), B (out, rank) and the scaling: ΔW = scaling · B A."""
        return Factors(self.lora_A, self.lora_B, self.scaling)


def factors_of(change: Tensor) -> tuple[Tensor, Tensor]:
    """A (rank, in) and B (out, rank) with B A = ``change`` (out, in): itself and an identity."""
    out_features, in_features = change.shape
    identity = torch.eye(min(out_features, in_features), device=change.device)
    return (change, identity) if out_features <= in_features else (identity, change)


@torch.no_grad()
def factors_are_exact(layer: nn.Module) -> bool:
    """Whether the layer adds scaling · x Aᵀ Bᵀ to its base at dropout 0, tried on random numbers in float32.

    Subclasses that override ``delta`` or ``forward`` inherit `factors`; this is what tells that they no
    longer agree. Of an embedding x is one-hot. Any other layer that is not `Additive` is believed.
    """
    if isinstance(layer, LowRank) and isinstance(base := frozen_part(layer), FrozenEmbedding):
        return _rows_are_exact(layer, base)
    if not (isinstance(layer, LowRank) and isinstance(layer, Additive)):
        return isinstance(layer, LowRank)
    A, B, scaling = (part.float() if isinstance(part, Tensor) else part for part in layer.factors())
    x = torch.randn(4, A.shape[1], generator=torch.Generator().manual_seed(0)).to(A.device)
    # Over a base of zeros the output is the change, and in float32: no rounding of the base's hides it.
    zeros = FrozenLinear(A.new_zeros(()).expand(len(B), A.shape[1]), None, A.shape[1], len(B))
    with over(layer, zeros):
        # Its own forward: one that was put in its place computes by the factors.
        computed = type(layer).forward(layer, x).float()
    expected = scaling * (x @ A.T @ B.T)
    # Relative to the factors, not to the product: they may cancel down to rounding noise.
    return bool((computed - expected).norm() <= 1e-5 * abs(scaling) * x.norm() * A.norm() * B.norm())


def _rows_are_exact(layer: nn.Module, base: FrozenEmbedding) -> bool:
    A, B, scaling = layer.factors()
    A, B = A.float(), B.float()
    zeros = FrozenEmbedding(A.new_zeros(()).expand(A.shape[1], len(B)), base.padding_idx)
    # Tokens that training changed, where there are some: those of columns that are not zero.
    ids = A.abs().sum(dim=0).topk(min(4, A.shape[1])).indices
    with over(layer, zeros):
        computed = type(layer).forward(layer, ids).float()
    expected = scaling * (A[:, ids].T @ B.T)
    return bool((computed - expected).norm() <= 1e-5 * abs(scaling) * A[:, ids].norm() * B.norm())


@contextmanager
def over(layer: nn.Module, base: FrozenLinear | FrozenEmbedding) -> Iterator[None]:
    """``layer`` over another base and in evaluation mode, inside the block only."""
    own = frozen_part(layer)
    name = next(name for name, part in layer.named_modules() if part is own)
    training = [module for module in layer.modules() if module.training]
    layer.set_submodule(name, base)
    layer.eval()
    try:
        yield
    finally:
        layer.set_submodule(name, own)
        for module in training:
            module.training = True


@torch.no_grad()
def merge_bias_into(layer: nn.Module, bias: Tensor | None) -> Tensor | None:
    """The bias (out,) that goes with the weight of `merge_into`; the base's own for most layers."""
    return layer.merged_bias(bias) if isinstance(layer, MergesBias) else bias


@torch.no_grad()
def merge_into(layer: nn.Module, weight: Tensor, name: str = "this layer") -> Tensor:
    """The weight (out, in) with which one plain linear computes what ``layer`` computes.

    Of an embedding it is (width, tokens), its rows turned. The change is computed in float32 and rounded
    once, to the dtype of ``weight``.

    Raises:
        ExportUnsupported: The layer has neither factors nor a merge of its own.
    """
    if isinstance(layer, Mergeable):
        return layer.merged(weight)
    if isinstance(layer, LowRank):
        if not factors_are_exact(layer):
            raise ExportUnsupported(
                f"the factors of {name} are not what its forward computes ({type(layer).__name__})",
                fix="tell its author: factors() must follow when delta or forward is overridden",
            )
        A, B, scaling = layer.factors()
        change = (B.float() @ A.float()).mul_(scaling).to(weight.device)
        return change.add_(weight).to(weight.dtype)
    if isinstance(layer, ApproximatelyLowRank):
        raise ExportUnsupported(
            f"no single weight computes exactly what {name} computes",
            fix="apply the adapter unmerged: edgelora generate --adapter REF, or fold it with an error that "
            "is measured: edgelora merge --adapter REF --out DIR "
            f"--approximate {' | '.join(layer.approximations())}",
        )
    raise ExportUnsupported(
        f"what {name} computes cannot be folded into one weight",
        fix="apply the adapter unmerged: edgelora generate --adapter REF",
    )
