"""Finding an installed plugin by the name a user types."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING

from edgelora.registry import Registry

if TYPE_CHECKING:
    from edgelora.registry.status import PluginStatus


def installed_plugin(name: str, command: str) -> PluginStatus:
    """The plugin of a name, for ``edgelora plugins <command>``.

    Raises:
        PluginMissing: There is none; a part's or a derivative's name is told with the plugin it is in.
    """
    from edgelora.errors import PluginMissing

    found = {plugin.name: plugin for plugin in Registry.discover().plugins}
    if name in found:
        return found[name]
    owners = {each: plugin.name for plugin in found.values() for each in _names(plugin)}
    near = difflib.get_close_matches(name, [*found, *owners], n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    if name in owners:
        hint = f"{name!r} is in plugin {owners[name]}: edgelora plugins {command} {owners[name]}; "
    known = ", ".join(sorted(found)) or "none"
    raise PluginMissing(f"no plugin {name!r} is installed", fix=f"{hint}installed are: {known}")


def _names(plugin: PluginStatus) -> set[str]:
    """Of everything it offers, with the plugin's own before it or not."""
    names = [
        *(part.part.name for part in plugin.parts),
        *(each.derivative.name for each in plugin.derivatives),
    ]
    return {*names, *(f"{plugin.name}:{name}" for name in names)}
