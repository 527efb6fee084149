"""95 % intervals for measurements."""

from __future__ import annotations

import math

Z = 1.959963984540054
"""Two-sided 95 % quantile of the normal distribution."""


def wilson_interval(right: int, n: int) -> tuple[float, float]:
    """Wilson's score interval of a proportion: ``right`` of ``n``.

    E. B. Wilson, Probable inference, the law of succession, and statistical inference, JASA 22 (1927).
    """
    if n == 0:
        return 0.0, 1.0
    share = right / n
    centre = share + Z * Z / (2 * n)
    spread = Z * math.sqrt(share * (1 - share) / n + Z * Z / (4 * n * n))
    scale = 1 + Z * Z / n
    low = 0.0 if right == 0 else (centre - spread) / scale
    high = 1.0 if right == n else (centre + spread) / scale
    return low, high


def mean_interval(mean: float, deviation: float, n: int) -> tuple[float, float]:
    """Normal interval of a mean of ``n`` values of standard deviation ``deviation``."""
    half = Z * deviation / math.sqrt(n) if n else math.inf
    return mean - half, mean + half
