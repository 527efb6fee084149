"""Looks at what published adapters learned, from their files: nothing is trained or generated."""

from edgelora.engine.analysis.adapters import (
    SiteAmplification,
    SiteSimilarity,
    amplifications,
    different_bases,
    published_factors,
    similarities,
    source_of,
)
from edgelora.engine.analysis.pictures import check_picture, draw_amplifications, draw_similarities

__all__ = [
    "SiteAmplification",
    "SiteSimilarity",
    "amplifications",
    "check_picture",
    "different_bases",
    "draw_amplifications",
    "draw_similarities",
    "published_factors",
    "similarities",
    "source_of",
]
