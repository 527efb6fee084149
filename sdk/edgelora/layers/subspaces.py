"""The LoRA paper's two looks at what an adapter learned: arXiv:2106.09685, sections 7.2 and 7.3."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from edgelora.protocols import Factors

SMALLEST = 1e-6
"""Singular values below this part of the largest are rounding: their directions mean nothing."""


@torch.no_grad()
def subspace_similarity(A: Tensor, other: Tensor, components: int | None = None) -> Tensor:
    """φ(A, A', i, j) = ‖Uᵢᵀ U'ⱼ‖²_F / min(i, j) in [0, 1], for all i and j from 1. Equation 4 of the paper.

    Uᵢ holds the i strongest right singular vectors of A: directions of the input. 1 says that one subspace
    lies in the other, 0 that they are orthogonal. Random subspaces of a wide input are nearly orthogonal.

    Args:
        A: (rank, in).
        other: (other rank, in); the ranks may differ.
        components: i and j up to this; as many as the matrices have when left out.

    Returns:
        float64 (i, j). Fewer rows or columns than components where a matrix has fewer.
    """
    U, other_U = (_strongest_inputs(each)[:components] for each in (A, other))
    shared = (U @ other_U.T).square().cumsum(dim=0).cumsum(dim=1)
    i, j = (torch.arange(1, size + 1, device=shared.device) for size in shared.shape)
    return (shared / torch.minimum(i[:, None], j)).clamp(0, 1)


@dataclass(frozen=True, slots=True)
class Amplification:
    """How much stronger a change of one weight is than the weight in the directions of the change.

    Attributes:
        rank: Directions of the change: its rank, or the number that was asked for.
        change: ‖ΔW‖_F.
        weight: ‖W‖_F.
        along_change: ‖Uᵀ W Vᵀ‖_F, U and V being the left and right singular vectors of ΔW.
        along_random: What that is for random directions, on average (root mean square).
        factor: ‖ΔW‖_F / ‖Uᵀ W Vᵀ‖_F, large where it strengthens what W hardly has. None where W has nothing.
    """

    rank: int
    change: float
    weight: float
    along_change: float
    along_random: float
    factor: float | None


@torch.no_grad()
def amplification(factors: Factors, weight: Tensor, components: int | None = None) -> Amplification:
    """The amplification factor of ΔW = scaling · B A over W. Table 7 of the paper.

    ΔW itself is never made: its singular vectors follow from the QR decompositions of both factors.

    Args:
        factors: A (rank, in), B (out, rank) and the scaling.
        weight: W, (out, in).
        components: Take the strongest directions of ΔW, and the part of ΔW along them; all when left out.
    """
    A, B, scaling = factors
    W = weight.double()
    left, upper = torch.linalg.qr(B.to(W))
    right, lower = torch.linalg.qr(A.to(W).T)
    u, values, v = torch.linalg.svd(scaling * (upper @ lower.T))
    kept = int((values > SMALLEST * values[0]).sum()) if values[0] else 0
    rank = min(kept, components or kept)
    U, V = left @ u[:, :rank], right @ v[:rank].T
    change, along = float(values[:rank].norm()), float((U.T @ W @ V).norm())
    whole = float(W.norm())
    return Amplification(
        rank=rank,
        change=change,
        weight=whole,
        along_change=along,
        along_random=whole * rank / math.sqrt(W.numel()),
        factor=change / along if along else None,
    )


def _strongest_inputs(A: Tensor) -> Tensor:
    """Right singular vectors of A, strongest first, float64 (rank of A, in)."""
    _, values, directions = torch.linalg.svd(A.double(), full_matrices=False)
    return directions[values > SMALLEST * values[0]]
