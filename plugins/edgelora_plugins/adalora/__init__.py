"""AdaLoRA: a rank budget that moves to the sites where it matters.

Zhang et al., Adaptive Budget Allocation for Parameter-Efficient Fine-Tuning, arXiv:2303.10512.
"""

from collections.abc import Iterable

from edgelora import Derivative, Part, hookimpl

PAPER = "arXiv:2303.10512"


@hookimpl
def edgelora_adapters() -> Iterable[Part]:
    """``svd``."""
    yield Part(
        name="svd",
        target="edgelora_plugins.adalora.layer:SvdAdapter",
        options="edgelora_plugins.adalora.options:SvdOptions",
        summary="a low-rank product with singular values that can be switched off one by one",
        paper=PAPER,
        abilities=("Additive", "LowRank", "HasAuxLosses", "Prunable"),
    )


@hookimpl
def edgelora_rank_schedulers() -> Iterable[Part]:
    """``budget``."""
    yield Part(
        name="budget",
        target="edgelora_plugins.adalora.schedule:BudgetScheduler",
        options="edgelora_plugins.adalora.options:BudgetOptions",
        summary="prunes the rank components that matter least, down to a budget for all sites",
        paper=PAPER,
        needs={"Prunable": "it switches rank components off one by one"},
        kit={
            "options": {"target_rank": 2, "warmup_steps": 0, "final_steps": 2, "every": 1},
            # Two at each of the 14 sites of the kit's model.
            "budget": 28,
        },
    )


@hookimpl
def edgelora_evaluators() -> Iterable[Part]:
    """``ranks``."""
    yield Part(
        name="ranks",
        target="edgelora_plugins.adalora.metrics:Ranks",
        summary="ranks in use, over all sites and by kind of site",
    )


@hookimpl
def edgelora_derivatives() -> Iterable[Derivative]:
    """``adalora``."""
    yield Derivative(
        name="adalora",
        summary="ranks that move to where they matter while training",
        paper=PAPER,
        parts={"adapter": {"name": "svd", "rank": 24, "alpha": 24}, "rank_scheduler": "budget"},
    )
