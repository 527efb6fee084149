"""LISA: only a few layers, drawn at random, learn at a time. Pan et al., arXiv:2403.17919."""

from edgelora import Part, hookimpl


@hookimpl
def edgelora_rank_schedulers() -> list[Part]:
    return [
        Part(
            name="lisa",
            target="edgelora_lisa.schedule:LayerSampling",
            options="edgelora_lisa.options:LisaOptions",
            summary="a few sites, drawn anew every few steps, learn at a time",
            paper="arXiv:2403.17919",
        )
    ]
