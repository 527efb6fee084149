"""MTLoRA: low-rank factors shared by all tasks, and others for each task.

Agiza et al., MTLoRA: A Low-Rank Adaptation Approach for Efficient Multi-Task Learning, arXiv:2403.20320.
Kendall et al., Multi-Task Learning Using Uncertainty to Weigh Losses, arXiv:1705.07115.
"""

from collections.abc import Iterable

from edgelora import Derivative, Part, hookimpl

PAPER = "arXiv:2403.20320"


@hookimpl
def edgelora_adapters() -> Iterable[Part]:
    """``task-lora`` and ``task-lora-addition``."""
    yield Part(
        name="task-lora",
        target="edgelora_plugins.mtlora.layer:TaskLoraAdapter",
        options="edgelora_plugins.mtlora.options:TaskLoraOptions",
        summary="LoRA shared by all tasks and one for each, in one batch",
        paper=PAPER,
        abilities=("Additive", "LowRank", "TaskAware"),
    )
    yield Part(
        name="task-lora-addition",
        target="edgelora_plugins.mtlora.addition:TaskSumAdapter",
        options="edgelora_plugins.mtlora.options:TaskSumOptions",
        summary="the normalized sum of every task's LoRA, for all tasks alike",
        paper=PAPER,
        starts_elsewhere="the paper adds a LayerNorm of the outputs, which is not zero at the start",
    )


@hookimpl
def edgelora_loss_combiners() -> Iterable[Part]:
    """``task-weighted`` and ``uncertainty``."""
    yield Part(
        name="task-weighted",
        target="edgelora_plugins.mtlora.loss:WeightedTasks",
        options="edgelora_plugins.mtlora.options:WeightOptions",
        summary="adds task losses by the weights a recipe gives them",
        paper=PAPER,
    )
    yield Part(
        name="uncertainty",
        target="edgelora_plugins.mtlora.loss:LearnedUncertainty",
        summary="weighs each task by its learned uncertainty",
        paper="arXiv:1705.07115",
    )


@hookimpl
def edgelora_derivatives() -> Iterable[Derivative]:
    """``mtlora``."""
    yield Derivative(
        name="mtlora",
        summary="several tasks in one adapter, each with factors of its own",
        paper=PAPER,
        parts={"adapter": "task-lora", "loss_combiner": "task-weighted"},
    )
