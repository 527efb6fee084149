"""A plugin to start from: a distribution of its own, typed, tested and installable as it is written."""

from edgelora.scaffold.names import PluginNames, name_defect
from edgelora.scaffold.writing import write_plugin

__all__ = ["PluginNames", "name_defect", "write_plugin"]
