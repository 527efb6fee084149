"""Options of AdaLoRA's parts."""

from __future__ import annotations

from pydantic import Field

from edgelora import AdapterOptions, Options


class SvdOptions(AdapterOptions):
    """Options of ``svd``; ``rank`` is the rank training starts with, before anything is pruned."""

    orthogonality: float = Field(
        0.5, ge=0, description="Weight of the loss that keeps the factors orthonormal (paper: γ)."
    )


class BudgetOptions(Options):
    """Options of ``budget``; steps are optimizer steps."""

    target_rank: int = Field(16, ge=0, description="Rank per site at the end, on average.")
    warmup_steps: int | None = Field(
        None, ge=0, description="Steps before anything is pruned (paper: t_i); a tenth of all when left out."
    )
    final_steps: int | None = Field(
        None, ge=0, description="Steps at the end with the ranks fixed (paper: t_f); three tenths by default."
    )
    every: int = Field(10, ge=1, description="Steps between prunings (paper: ΔT).")
    beta1: float = Field(0.85, gt=0, lt=1, description="Decay of the average sensitivity.")
    beta2: float = Field(0.85, gt=0, lt=1, description="Decay of the average uncertainty.")
