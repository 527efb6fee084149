"""The plain part of each kind: no quantization, constant ranks, summed losses, loss and exact match."""

from collections.abc import Iterable

from edgelora import Part, hookimpl


@hookimpl
def edgelora_quantizers() -> Iterable[Part]:
    """``none``."""
    yield Part(
        name="none",
        target="edgelora_plugins.baseline.quantizer:Unquantized",
        summary="keeps weights as they are",
        abilities=("StockQuantization", "StockTensors"),
        keeps_weights=True,
    )


@hookimpl
def edgelora_rank_schedulers() -> Iterable[Part]:
    """``constant``."""
    yield Part(
        name="constant",
        target="edgelora_plugins.baseline.schedule:ConstantRanks",
        summary="keeps every rank as it starts",
    )


@hookimpl
def edgelora_loss_combiners() -> Iterable[Part]:
    """``sum``."""
    yield Part(
        name="sum",
        target="edgelora_plugins.baseline.loss:LossSum",
        summary="adds all task losses and auxiliary losses",
    )


@hookimpl
def edgelora_evaluators() -> Iterable[Part]:
    """``loss``, ``exact-match`` and ``merge-error``."""
    yield Part(
        name="loss",
        target="edgelora_plugins.baseline.metrics:HeldOutLoss",
        summary="cross-entropy and perplexity per labelled token of the held-out rows",
    )
    yield Part(
        name="exact-match",
        target="edgelora_plugins.baseline.metrics:ExactMatch",
        options="edgelora_plugins.baseline.options:ExactMatchOptions",
        summary="fraction of held-out questions answered letter by letter, greedily",
        accuracies=("exact_match",),
    )
    yield Part(
        name="merge-error",
        target="edgelora_plugins.baseline.merge_error:MergeError",
        options="edgelora_plugins.baseline.options:MergeErrorOptions",
        summary="how exactly the adapter folds into the weights, layer by layer",
    )
