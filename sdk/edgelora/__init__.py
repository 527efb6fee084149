"""edgelora: fine-tune language models offline with LoRA derivatives, and ship the adapters.

Everything here is light: importing edgelora imports neither torch nor numpy.
"""

from typing import TYPE_CHECKING

from edgelora.errors import EdgeloraError
from edgelora.hookspecs import API_VERSION, hookimpl
from edgelora.parts import Derivative, Part
from edgelora.version import __version__

if TYPE_CHECKING:
    from edgelora.options import AdapterOptions, Options
    from edgelora.registry import Registry

__all__ = [
    "API_VERSION",
    "AdapterOptions",
    "Derivative",
    "EdgeloraError",
    "Options",
    "Part",
    "Registry",
    "__version__",
    "hookimpl",
]


def __getattr__(name: str) -> object:
    # Looked up when asked for, because every command and every plugin imports this package: Options brings
    # pydantic, which takes as long as all else `edgelora plugins list` does; Registry brings its own modules.
    if name in ("AdapterOptions", "Options"):
        from edgelora import options

        return getattr(options, name)
    if name == "Registry":
        from edgelora.registry import Registry

        return Registry
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
