"""Finding an installed plugin by the name a user types."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING

from edgelora.registry import Registry
from edgelora.registry.lookup import name_of, names_of

if TYPE_CHECKING:
    from edgelora.registry.status import FoundDerivative, FoundPart, PluginStatus


def installed_plugin(name: str, command: str) -> PluginStatus:
    """The plugin of a name, for ``edgelora plugins <command>``.

    Raises:
        PluginMissing: There is none; a part's or a derivative's name is told with the plugin it is in.
    """
    from edgelora.errors import PluginMissing

    found = {plugin.name: plugin for plugin in Registry.discover().plugins}
    if name in found:
        return found[name]
    offers: list[FoundPart | FoundDerivative] = []
    for plugin in found.values():
        offers += [*plugin.parts, *plugin.derivatives]
    owners = {found_as: each.plugin for each in offers for found_as in names_of(each)}
    near = difflib.get_close_matches(name, [*found, *owners], n=1)
    # A bare name that is not enough in a recipe leads to its plugin all the same.
    owners = {name_of(each): each.plugin for each in offers} | owners
    hint = f"did you mean {near[0]!r}? " if near else ""
    if name in owners:
        hint = f"{name!r} is in plugin {owners[name]}: edgelora plugins {command} {owners[name]}; "
    known = ", ".join(sorted(found)) or "none"
    raise PluginMissing(f"no plugin {name!r} is installed", fix=f"{hint}installed are: {known}")
