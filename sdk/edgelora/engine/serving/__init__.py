"""Several adapters over one base at the same time: added, switched and removed while it is loaded."""

from edgelora.engine.serving.adapter_set import AdapterSet
from edgelora.engine.serving.opening import load_adapters, open_base

__all__ = ["AdapterSet", "load_adapters", "open_base"]
