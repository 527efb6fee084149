"""C-LoRA: LoRA that goes on from earlier LoRAs and is kept off the weights they changed.

Smith et al., Continual Diffusion: Continual Customization of Text-to-Image Diffusion with C-LoRA,
arXiv:2304.06027. Yugopuspito et al. 2024 name Continual LoRA (C-LoRA) without an algorithm or a citation.

Others bear nearly the same name and are not meant: CLoRA (Controlled LoRA, 2024) keeps A and B off fixed
random subspaces; C-LoRA of arXiv:2502.17920 has a learnable routing matrix between A and B; O-LoRA
(arXiv:2310.14152) penalizes the overlap of the subspaces of A.
"""

from collections.abc import Iterable

from edgelora import Derivative, Part, hookimpl

PAPER = "arXiv:2304.06027"


@hookimpl
def edgelora_adapters() -> Iterable[Part]:
    """``clora``."""
    yield Part(
        name="clora",
        target="edgelora_plugins.clora.layer:ContinualAdapter",
        options="edgelora_plugins.clora.options:ContinualOptions",
        summary="a low-rank product beside those of earlier adapters, kept off the weights these changed",
        paper=PAPER,
        abilities=("Additive", "LowRank", "HasAuxLosses", "HasPast"),
    )


@hookimpl
def edgelora_evaluators() -> Iterable[Part]:
    """``forgetting``."""
    yield Part(
        name="forgetting",
        target="edgelora_plugins.clora.metrics:Forgetting",
        options="edgelora_plugins.clora.options:ForgettingOptions",
        summary="questions of earlier tasks that were answered before training and are not any more",
        refuses={"AdaptsModel": "it sets layers back to where training began, and such an adapter has none"},
        kit={"options": {"tasks": ["first", "second"], "samples": 2, "max_new_tokens": 2}},
    )


@hookimpl
def edgelora_derivatives() -> Iterable[Derivative]:
    """``clora``."""
    yield Derivative(
        name="clora",
        summary="LoRA after LoRA, with a penalty on forgetting",
        paper=PAPER,
        parts={"adapter": "clora"},
    )
