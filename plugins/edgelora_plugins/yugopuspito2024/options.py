"""Options of the parts of Yugopuspito et al. 2024."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from edgelora import Options
from edgelora.errors import PlanError

if TYPE_CHECKING:
    from edgelora.plan import Plan


class CodebookOptions(Options):
    """Options of ``codebook``; a weight takes log₂(codewords) / vector_size bits."""

    vector_size: Literal[1, 2, 4, 8] = Field(
        4, description="Consecutive weights that are replaced together (paper: d)."
    )
    codewords: Literal[2, 4, 8, 16, 32, 64, 128, 256] = Field(
        256, description="Vectors that they are replaced by (paper: L)."
    )
    iterations: int = Field(20, ge=1, description="Of k-means, by which the codewords are found.")
    compute_dtype: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="Of the products; auto takes that of the activations."
    )


class ImportanceOptions(Options):
    """Options of ``gradient-importance``."""

    decay: float = Field(0.9, ge=0, lt=1, description="Of a layer's weight at each step (paper: τ).")
    metric: Literal["relative", "magnitude"] = Field(
        "relative",
        description="What a layer's gradient counts for: magnitude is the mean of its absolute values; "
        "relative is that over its mean among all layers, so that weights stay around 1.",
    )


class AccuracyOptions(Options):
    """Options of ``accuracy-scaled``."""

    rate: float = Field(0.1, gt=0, description="How fast the loss of a task with errors grows (paper: α).")
    metric: str = Field(
        "exact_match", min_length=1, description="The accuracy to go by, measured as <task>.<metric>."
    )
    normalize: bool = Field(
        False, description="Keep the sum of all factors at the number of tasks; the paper does not."
    )
    cap: float | None = Field(None, ge=1, description="Largest factor; the paper has none.")

    def check(self, plan: Plan) -> None:
        """Refuse a run in which no accuracy of some task is ever measured while it trains."""
        train = plan.recipe.train
        if not train.evaluate_every:
            raise PlanError(
                "accuracy-scaled goes by what evaluations while training find, and there are none",
                fix="set train.evaluate_every, to 100 for example",
            )
        if train.max_steps is not None and train.evaluate_every >= train.max_steps:
            raise PlanError(
                f"accuracy-scaled: train.evaluate_every {train.evaluate_every} comes to no evaluation before "
                f"the last of {train.max_steps} steps",
                fix="lower train.evaluate_every",
            )
        offered = {metric: part.name for part in plan.evaluators for metric in part.part.accuracies}
        if self.metric not in offered:
            raise PlanError(
                f"accuracy-scaled goes by {self.metric}, which no evaluator of the recipe measures"
                + (f"; they measure {', '.join(offered)}" if offered else ""),
                fix="add exact-match to evaluators, or set loss_combiner.metric to an accuracy of yours",
            )
        held_out = {source.task for source in plan.recipe.data if source.held_out}
        if bare := [task for task in plan.tasks if task not in held_out]:
            raise PlanError(
                f"accuracy-scaled: no row of task {bare[0]!r} is held out, so its accuracy is never measured",
                fix="set held_out in its 'data'",
            )
