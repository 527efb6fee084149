"""The algorithms of Yugopuspito et al. 2024, as printed.

P. Yugopuspito, I M. Murwantara, E. K. Alim, W. Cendana, A. R. Mitra: Towards Offline GenAI Fine Tuning Model
with LoRA Derivatives for IoT Edge Server, ICIC 2024.
"""

from collections.abc import Iterable

from edgelora import Part, hookimpl


@hookimpl
def edgelora_loss_combiners() -> Iterable[Part]:
    """``task-sum``."""
    yield Part(
        name="task-sum",
        target="edgelora_plugins.yugopuspito2024.loss:TaskSum",
        summary="adds the losses of all tasks, unweighted (Algorithms 2 and 3)",
        paper="Yugopuspito et al. 2024",
    )
