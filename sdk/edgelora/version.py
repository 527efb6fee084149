"""The version of this edgelora."""

__version__ = "0.1.0"
