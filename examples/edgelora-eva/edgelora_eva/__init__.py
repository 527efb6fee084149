"""EVA: LoRA that starts at the directions its inputs vary most in. Paischer et al., arXiv:2410.07170."""

from edgelora import Part, hookimpl


@hookimpl
def edgelora_adapters() -> list[Part]:
    return [
        Part(
            name="eva",
            target="edgelora_eva.adapter:EvaAdapter",
            options="edgelora_eva.options:EvaOptions",
            summary="LoRA that starts at the directions its inputs vary most in",
            paper="arXiv:2410.07170",
            abilities=("Additive", "Calibrated", "LowRank"),
        )
    ]
