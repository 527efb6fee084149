"""NormalFloat below 4 bits.

QLoRA (Dettmers et al., arXiv:2305.14314) defines NormalFloat for any number of bits and uses 4; LoftQ (Li
et al., arXiv:2310.08659) goes down to 2. ``nf4`` is another plugin's, for it has kernels of its own.
"""

from collections.abc import Iterable

from edgelora import Part, hookimpl


@hookimpl
def edgelora_quantizers() -> Iterable[Part]:
    """``nf3`` and ``nf2``."""
    for bits in (3, 2):
        yield Part(
            name=f"nf{bits}",
            target=f"edgelora_plugins.normalfloat.quantizer:NormalFloat{bits}",
            options="edgelora.options:BlockwiseOptions",
            summary=f"{bits}-bit NormalFloat in blocks, the scales quantized too",
            paper="arXiv:2305.14314",
        )
