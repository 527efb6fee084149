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


def paired_interval(lost: int, gained: int, n: int) -> tuple[float, float]:
    """Interval of the share lost less the share gained, of ``n`` questions that were asked twice.

    Wald's, with half a question added to each of the four cells: A. Agresti and Y. Min, Simple improved
    confidence intervals for comparing matched proportions, Statistics in Medicine 24 (2005).
    """
    lost_, gained_, n_ = lost + 0.5, gained + 0.5, n + 2
    centre = (lost_ - gained_) / n_
    half = Z * math.sqrt((lost_ + gained_) / n_ - centre**2) / math.sqrt(n_)
    return max(centre - half, -1.0), min(centre + half, 1.0)


def mean_interval(mean: float, deviation: float, n: int) -> tuple[float, float]:
    """Normal interval of a mean of ``n`` values of standard deviation ``deviation``."""
    half = Z * deviation / math.sqrt(n) if n else math.inf
    return mean - half, mean + half
