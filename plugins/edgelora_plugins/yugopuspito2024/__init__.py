"""The algorithms of Yugopuspito et al. 2024.

P. Yugopuspito, I M. Murwantara, E. K. Alim, W. Cendana, A. R. Mitra: Towards Offline GenAI Fine Tuning Model
with LoRA Derivatives for IoT Edge Server, ICIC 2024. Algorithms 4 and 5 stand in the paper under the names of
AdaLoRA and IR-QLoRA, with which they share little: those are plugins of their own.
"""

from collections.abc import Iterable

from edgelora import Derivative, Part, hookimpl

PAPER = "Yugopuspito et al. 2024"


@hookimpl
def edgelora_quantizers() -> Iterable[Part]:
    """``codebook``."""
    yield Part(
        name="codebook",
        target="edgelora_plugins.yugopuspito2024.quantizer:Codebook",
        options="edgelora_plugins.yugopuspito2024.options:CodebookOptions",
        summary="experimental: vectors of weights replaced by the nearest of a codebook (Algorithm 1)",
        paper=PAPER,
        kit={"options": {"iterations": 5}},
    )


@hookimpl
def edgelora_rank_schedulers() -> Iterable[Part]:
    """``gradient-importance``."""
    yield Part(
        name="gradient-importance",
        target="edgelora_plugins.yugopuspito2024.importance:GradientImportance",
        options="edgelora_plugins.yugopuspito2024.options:ImportanceOptions",
        summary="weighs each layer's learning rate by the size of its gradients (Algorithm 4)",
        paper=PAPER,
        refuses={"AdaptsModel": "it weighs layers against each other, and such an adapter has none"},
    )


@hookimpl
def edgelora_loss_combiners() -> Iterable[Part]:
    """``task-sum`` and ``accuracy-scaled``."""
    yield Part(
        name="task-sum",
        target="edgelora_plugins.yugopuspito2024.loss:TaskSum",
        summary="adds the losses of all tasks, unweighted (Algorithms 2 and 3)",
        paper=PAPER,
    )
    yield Part(
        name="accuracy-scaled",
        target="edgelora_plugins.yugopuspito2024.loss:AccuracyScaled",
        options="edgelora_plugins.yugopuspito2024.options:AccuracyOptions",
        summary="lets a task weigh more with each evaluation that finds errors in it (Algorithm 5)",
        paper=PAPER,
    )


@hookimpl
def edgelora_derivatives() -> Iterable[Derivative]:
    """``gradient-importance`` and ``accuracy-scaled``."""
    yield Derivative(
        name="gradient-importance",
        summary="LoRA whose layers learn by the size of their gradients (Algorithm 4)",
        paper=PAPER,
        parts={"adapter": "lora:lora", "rank_scheduler": "gradient-importance"},
    )
    yield Derivative(
        name="accuracy-scaled",
        summary="LoRA on several tasks, those with errors weighing ever more (Algorithm 5)",
        paper=PAPER,
        parts={
            "adapter": "lora:lora",
            "loss_combiner": "accuracy-scaled",
            "evaluator": ["baseline:loss", "baseline:exact-match"],
        },
    )
