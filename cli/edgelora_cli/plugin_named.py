"""Finding an installed plugin, or what one offers, by the name a user types."""

from __future__ import annotations

import difflib
from dataclasses import replace
from typing import TYPE_CHECKING

from edgelora.registry import Registry
from edgelora.registry.lookup import as_written, name_of, names_of

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
    owner = name.partition(":")[0]
    if ":" in name and owner in found and name not in owners:
        hint += f"see what {owner} offers: edgelora plugins show {owner}; "
    known = ", ".join(sorted(found)) or "none"
    raise PluginMissing(f"no plugin {name!r} is installed", fix=f"{hint}installed are: {known}")


def plugin_or_part(name: str) -> PluginStatus:
    """The plugin of a name; else the one that offers parts or a derivative of it, with these alone.

    Raises:
        AmbiguousPart: Several plugins offer something of this name.
        PluginMissing: There is none.
    """
    from edgelora.errors import AmbiguousPart

    found, written = Registry.discover().plugins, as_written(name)
    offers: list[FoundPart | FoundDerivative] = []
    for plugin in found:
        offers += [*plugin.parts, *plugin.derivatives]
    # What recipes must write with its plugin is shown by its bare name too, unless another has that name.
    named = [each for each in offers if written in names_of(each)]
    named = named or [each for each in offers if written == name_of(each)]
    owners = sorted({each.plugin for each in named})
    if not named or name in {plugin.name for plugin in found}:
        return installed_plugin(name, "show")
    if len(owners) > 1:
        choices = ", ".join(f"{owner}:{name}" for owner in owners)
        raise AmbiguousPart(f"{len(owners)} plugins offer {name!r}", fix=f"show one of {choices}")
    (owner,) = [plugin for plugin in found if plugin.name == owners[0] and plugin.state == "ready"]
    return replace(
        owner,
        parts=tuple(each for each in owner.parts if each in named),
        derivatives=tuple(each for each in owner.derivatives if each in named),
    )
