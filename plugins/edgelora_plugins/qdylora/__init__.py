"""DyLoRA and QDyLoRA: one adapter that works at every rank, chosen after training.

Valipour et al., DyLoRA: Parameter-Efficient Tuning of Pretrained Models using Dynamic Search-Free Low Rank
Adaptation, arXiv:2210.07558. Rajabzadeh et al., QDyLoRA: Quantized Dynamic Low-Rank Adaptation for Efficient
Large Language Model Tuning, arXiv:2402.10462.
"""

from collections.abc import Iterable

from edgelora import Derivative, Part, hookimpl

DYLORA = "arXiv:2210.07558"
QDYLORA = "arXiv:2402.10462"


@hookimpl
def edgelora_adapters() -> Iterable[Part]:
    """``dylora``."""
    yield Part(
        name="dylora",
        target="edgelora_plugins.qdylora.layer:DyloraAdapter",
        options="edgelora_plugins.qdylora.options:DyloraOptions",
        summary="LoRA whose first components are LoRA of any lower rank",
        paper=DYLORA,
        abilities=("Additive", "LowRank", "Nested"),
    )


@hookimpl
def edgelora_rank_schedulers() -> Iterable[Part]:
    """``nested``."""
    yield Part(
        name="nested",
        target="edgelora_plugins.qdylora.schedule:NestedRanks",
        options="edgelora_plugins.qdylora.options:NestedOptions",
        summary="trains each step at a rank drawn for it, the same in all layers",
        paper=DYLORA,
        needs={"Nested": "it lets layers compute with their first components alone"},
    )


@hookimpl
def edgelora_evaluators() -> Iterable[Part]:
    """``rank-sweep``."""
    yield Part(
        name="rank-sweep",
        target="edgelora_plugins.qdylora.metrics:RankSweep",
        options="edgelora_plugins.qdylora.options:SweepOptions",
        summary="loss, exact match or both at each of several ranks",
        paper=QDYLORA,
        needs={"Nested": "it measures one adapter at several ranks"},
        kit={"options": {"metrics": ["loss", "exact_match"], "samples": 4}},
    )


@hookimpl
def edgelora_derivatives() -> Iterable[Derivative]:
    """``dylora`` and ``qdylora``."""
    yield Derivative(
        name="dylora",
        summary="LoRA trained for every rank at once",
        paper=DYLORA,
        parts={"adapter": "dylora", "rank_scheduler": "nested"},
    )
    yield Derivative(
        name="qdylora",
        summary="DyLoRA over a base quantized to 4-bit NormalFloat",
        paper=QDYLORA,
        parts={
            "quantizer": "qlora:nf4",
            "adapter": {"name": "dylora", "rank": 64, "alpha": 16},
            "rank_scheduler": "nested",
        },
    )
