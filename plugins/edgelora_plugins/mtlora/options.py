"""Options of MTLoRA's parts."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from edgelora import AdapterOptions, Options


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


class WeightOptions(Options):
    """Options of ``task-weighted``."""

    weights: dict[str, Annotated[float, Field(ge=0)]] = Field(
        {}, description="Weight of a task's loss, by the task's name; 1 where none is given."
    )
