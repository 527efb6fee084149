"""Options of MTLoRA's parts."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from edgelora import AdapterOptions, Options
from edgelora.errors import PlanError

if TYPE_CHECKING:
    from edgelora.plan import Plan


class TaskSumOptions(AdapterOptions):
    """Options of ``task-lora-addition``; ``rank`` and ``alpha`` are those of each task."""


class TaskLoraOptions(AdapterOptions):
    """Options of ``task-lora``; ``rank`` and ``alpha`` are those of the shared factors.

    The authors' scale is a plain factor s: write alpha = s · rank.
    """

    mode: Literal["matrixv2", "matrix"] = Field(
        "matrixv2",
        description="matrixv2: a row gets the shared change and its task's; matrix: its task's alone.",
    )
    task_rank: int = Field(4, ge=1, description="Rank of each task's factors.")
    task_alpha: float = Field(4.0, gt=0, description="A task's product is scaled by task_alpha / its rank.")
    task_rank_pattern: dict[str, Annotated[int, Field(ge=1)]] = Field(
        {}, description="Other ranks for some tasks, by the task's name."
    )

    def check(self, plan: Plan) -> None:
        """Refuse ranks for tasks that the data do not have."""
        _check_tasks(self.task_rank_pattern, plan, "adapter.task_rank_pattern")

    def notes(self, plan: Plan) -> Iterable[str]:
        """Of the authors' two modes, one shares nothing."""
        if self.mode == "matrix":
            yield (
                "adapter 'task-lora' in mode 'matrix' shares nothing between tasks, and its rank and alpha "
                "do nothing; the other mode is 'matrixv2'"
            )


class WeightOptions(Options):
    """Options of ``task-weighted``."""

    weights: dict[str, Annotated[float, Field(ge=0)]] = Field(
        {}, description="Weight of a task's loss, by the task's name; 1 where none is given."
    )

    def check(self, plan: Plan) -> None:
        """Refuse weights for tasks that the data do not have, and weights that are all zero."""
        _check_tasks(self.weights, plan, "loss_combiner.weights")
        if all(self.weights.get(task, 1.0) == 0 for task in plan.tasks):
            raise PlanError(
                "loss_combiner.weights are 0 for every task, so nothing would be learned",
                fix="give one task a weight above 0",
            )


def _check_tasks(named: Iterable[str], plan: Plan, where: str) -> None:
    if strange := sorted(set(named) - set(plan.tasks)):
        near = difflib.get_close_matches(strange[0], plan.tasks, n=1)
        raise PlanError(
            f"{where} names {strange[0]!r}, which is no task of the data",
            fix=f"did you mean {near[0]!r}?" if near else f"use one of: {', '.join(plan.tasks)}",
        )
