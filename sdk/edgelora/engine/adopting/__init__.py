"""Adopting adapters that were made elsewhere."""

from edgelora.engine.adopting.adopt import Adopted, adopt
from edgelora.engine.adopting.locate import locate_source
from edgelora.engine.adopting.source import PeftSource, read_source

__all__ = ["Adopted", "PeftSource", "adopt", "locate_source", "read_source"]
