"""Which plugins there are, which of them work, and what they offer by name."""

from edgelora.registry.registry import HEAVY, Registry
from edgelora.registry.status import FoundDerivative, FoundPart, PluginStatus

__all__ = ["HEAVY", "FoundDerivative", "FoundPart", "PluginStatus", "Registry"]
