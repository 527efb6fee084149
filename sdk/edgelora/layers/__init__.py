"""Building blocks for plugin authors. Importing this package imports torch.

`FrozenLinear` is what a quantizer makes and an adapter wraps. A new additive low-rank method usually is a
subclass of `LowRankLinear` that overrides one method.
"""

from edgelora.layers.embedding import FrozenEmbedding, LowRankEmbedding, frozen_part
from edgelora.layers.frozen import FrozenLinear, QuantizedLinear
from edgelora.layers.low_rank import (
    LowRankLinear,
    LowRankPair,
    factors_are_exact,
    merge_bias_into,
    merge_into,
    over,
)

__all__ = [
    "FrozenEmbedding",
    "FrozenLinear",
    "LowRankEmbedding",
    "LowRankLinear",
    "LowRankPair",
    "QuantizedLinear",
    "factors_are_exact",
    "frozen_part",
    "merge_bias_into",
    "merge_into",
    "over",
]
