"""ResLoRA: shortcuts from the low-rank branches of earlier blocks.

Shi et al., ResLoRA: Identity Residual Mapping in Low-Rank Adaption, arXiv:2402.18039.
"""

from collections.abc import Iterable

from edgelora import Derivative, Part, hookimpl

PAPER = "arXiv:2402.18039"
EVALUATORS = ("loss", "merge-error")
"""Of what folds only approximately: the adapter's manifest then says how nearly."""


@hookimpl
def edgelora_adapters() -> Iterable[Part]:
    """``input-shortcut``, ``block-shortcut`` and ``middle-shortcut``."""
    yield Part(
        name="input-shortcut",
        target="edgelora_plugins.reslora.input_shortcut:InputShortcutAdapter",
        options="edgelora.options:AdapterOptions",
        summary="each low-rank branch reads the sum of its block's input and that of the block before",
        paper=PAPER,
        abilities=("CrossSite", "ApproximatelyLowRank"),
    )
    yield Part(
        name="block-shortcut",
        target="edgelora_plugins.reslora.block_shortcut:BlockShortcutAdapter",
        options="edgelora_plugins.reslora.options:ShortcutOptions",
        summary="the low-rank branches of the blocks before are added to each block's own",
        paper=PAPER,
        abilities=("Additive", "LowRank"),
    )
    yield Part(
        name="middle-shortcut",
        target="edgelora_plugins.reslora.middle_shortcut:MiddleShortcutAdapter",
        options="edgelora_plugins.reslora.options:ShortcutOptions",
        summary="what the first factors before it computed goes through each block's second factor",
        paper=PAPER,
        abilities=("CrossSite", "ApproximatelyLowRank"),
    )


@hookimpl
def edgelora_derivatives() -> Iterable[Derivative]:
    """``reslora``, which is what the paper trains language models with, ``reslora-bs`` and ``reslora-ms``."""
    yield Derivative(
        name="reslora",
        summary="low-rank adaptation with input shortcuts between blocks (ResLoRA-is)",
        paper=PAPER,
        parts={"adapter": "input-shortcut", "evaluator": EVALUATORS},
    )
    yield Derivative(
        name="reslora-bs",
        summary="low-rank adaptation with block shortcuts, a plain low-rank product when it is published",
        paper=PAPER,
        parts={"adapter": "block-shortcut"},
    )
    yield Derivative(
        name="reslora-ms",
        summary="low-rank adaptation with middle shortcuts between blocks",
        paper=PAPER,
        parts={"adapter": "middle-shortcut", "evaluator": EVALUATORS},
    )
