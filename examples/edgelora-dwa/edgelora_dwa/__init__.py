"""Dynamic weight average: tasks whose loss falls slowly weigh more. Liu et al., arXiv:1803.10704."""

from edgelora import Part, hookimpl


@hookimpl
def edgelora_loss_combiners() -> list[Part]:
    return [
        Part(
            name="dwa",
            target="edgelora_dwa.combiner:DynamicWeightAverage",
            options="edgelora_dwa.options:DwaOptions",
            summary="tasks whose loss falls slowly weigh more",
            paper="arXiv:1803.10704",
        )
    ]
