"""Quantizers to 3 and 2 bits."""

from __future__ import annotations

from edgelora.layers.blockwise import BlockwiseQuantizer
from edgelora.layers.normal_float import NF2, NF3


class NormalFloat3(BlockwiseQuantizer):
    """NF3: the 8 levels are quantiles of a normal distribution. arXiv:2305.14314, section 3."""

    format = NF3


class NormalFloat2(BlockwiseQuantizer):
    """NF2: the 4 levels are quantiles of a normal distribution. arXiv:2305.14314, section 3."""

    format = NF2
