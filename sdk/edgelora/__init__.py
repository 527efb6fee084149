"""edgelora: fine-tune language models offline with LoRA derivatives, and ship the adapters.

Everything here is light: importing edgelora imports neither torch nor numpy.
"""

from edgelora.errors import EdgeloraError
from edgelora.hookspecs import API_VERSION, hookimpl
from edgelora.parts import Derivative, Options, Part
from edgelora.version import __version__

__all__ = ["API_VERSION", "Derivative", "EdgeloraError", "Options", "Part", "__version__", "hookimpl"]
