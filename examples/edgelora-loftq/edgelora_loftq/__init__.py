"""LoftQ: LoRA that starts at what quantization lost. Li et al., arXiv:2310.08659."""

from edgelora import Part, hookimpl


@hookimpl
def edgelora_adapters() -> list[Part]:
    return [
        Part(
            name="loftq",
            target="edgelora_loftq.adapter:LoftqAdapter",
            options="edgelora.options:AdapterOptions",
            summary="LoRA that starts at what quantization lost",
            paper="arXiv:2310.08659",
            abilities=("Additive", "LowRank", "WantsSource"),
            refuses={"quantizer:none": "nothing is lost, so A and B would start and stay at zero"},
        )
    ]
