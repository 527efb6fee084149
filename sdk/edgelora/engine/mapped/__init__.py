"""Bases that stay in their files: mapped into memory, and kept there block by block where asked for."""

from edgelora.engine.mapped.files import MappedFiles, Pages
from edgelora.engine.mapped.loading import load_mapped
from edgelora.engine.mapped.streaming import load_prepared, load_streamed, stream

__all__ = ["MappedFiles", "Pages", "load_mapped", "load_prepared", "load_streamed", "stream"]
