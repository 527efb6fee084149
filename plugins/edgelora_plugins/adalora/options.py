"""Options of AdaLoRA's parts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from edgelora import AdapterOptions, Options
from edgelora.errors import PlanError

if TYPE_CHECKING:
    from edgelora.plan import Plan


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

    def phases(self, total_steps: int) -> tuple[int, int]:
        """Warmup and final steps of a run.

        Raises:
            PlanError: They leave none between them.
        """
        warmup = total_steps // 10 if self.warmup_steps is None else self.warmup_steps
        final = 3 * total_steps // 10 if self.final_steps is None else self.final_steps
        if warmup + final >= total_steps:
            raise PlanError(
                f"budget: {warmup} warmup and {final} final steps leave none of {total_steps}",
                fix="lower rank_scheduler.warmup_steps or final_steps, or train longer",
            )
        return warmup, final

    def check(self, plan: Plan) -> None:
        """Refuse a schedule that does not fit into the run, and more ranks at the end than at the start."""
        if plan.recipe.train.max_steps is not None:
            self.phases(plan.recipe.train.max_steps)
        options = plan.parts["adapter"].options
        if isinstance(options, AdapterOptions) and not options.rank_pattern:
            self.check_target(options.rank)

    def check_target(self, rank: float) -> None:
        """Refuse a target above the mean rank that training starts with.

        Raises:
            PlanError: It is.
        """
        if self.target_rank > rank:
            raise PlanError(
                f"budget: target_rank {self.target_rank} is more than the {rank:g} ranks per site that "
                "training starts with",
                fix="raise adapter.rank, to 1.5 times target_rank as is usual, or lower target_rank",
            )
