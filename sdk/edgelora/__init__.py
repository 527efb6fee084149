"""edgelora: fine-tune language models offline with LoRA derivatives, and ship the adapters.

Everything here is light: importing edgelora imports neither torch nor numpy.
"""

from typing import TYPE_CHECKING

from edgelora.errors import EdgeloraError
from edgelora.hookspecs import API_VERSION, hookimpl
from edgelora.parts import Derivative, Part
from edgelora.version import __version__

if TYPE_CHECKING:
    from edgelora.options import Options
    from edgelora.registry import Registry

__all__ = [
    "API_VERSION",
    "Derivative",
    "EdgeloraError",
    "Options",
    "Part",
    "Registry",
    "__version__",
    "hookimpl",
]


def __getattr__(name: str) -> object:
    # Options brings pydantic, which costs more than all the rest of `edgelora plugins list`, and every plugin
    # imports this package. Registry is here because its modules import this package while it is initialised.
    if name == "Options":
        from edgelora.options import Options

        return Options
    if name == "Registry":
        from edgelora.registry import Registry

        return Registry
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
