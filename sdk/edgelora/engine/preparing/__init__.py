"""Preparing bases: quantized once, tensor by tensor, into a folder that is then read as it lies."""

from edgelora.engine.preparing.check import differing_tensors
from edgelora.engine.preparing.layout import Layout, layout_of
from edgelora.engine.preparing.prepare import Prepared, prepare_base
from edgelora.engine.preparing.writer import Preparation, PreparedShard, PreparedWriter

__all__ = [
    "Layout",
    "Preparation",
    "Prepared",
    "PreparedShard",
    "PreparedWriter",
    "differing_tensors",
    "layout_of",
    "prepare_base",
]
