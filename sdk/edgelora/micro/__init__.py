"""The embedded base model, ``base: micro``, and the quickstart's rows. Everything imported here is light."""

from edgelora.micro.location import path, quickstart_data

__all__ = ["path", "quickstart_data"]
