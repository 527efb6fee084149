"""What is odd about the plugins together, though each of them is fine."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

from edgelora.registry.lookup import names_of
from edgelora.registry.status import PluginStatus


def shared_names(plugins: Sequence[PluginStatus]) -> Iterator[str]:
    """A sentence for each name of a part or derivative that several plugins use."""
    owners: dict[tuple[str, str], list[str]] = defaultdict(list)
    for plugin in plugins:
        for found in plugin.parts:
            for name in names_of(found):
                owners[found.kind.replace("_", " "), name].append(plugin.name)
        for item in plugin.derivatives:
            for name in names_of(item):
                owners["derivative", name].append(plugin.name)
    for (what, name), names in owners.items():
        if len(names) > 1:
            choices = " or ".join(f"{owner}:{name}" for owner in names)
            yield (
                f"the {what} {name} is offered by {' and '.join(names)}, so recipes must write {choices}; "
                "uninstall or block the one you do not want"
            )


def lost_parts(plugins: Sequence[PluginStatus]) -> Iterator[str]:
    """A sentence for each derivative that names a part no plugin offers."""
    offered = {
        (found.kind, name)
        for plugin in plugins
        for found in plugin.parts
        for name in (found.part.name, found.qualified_name)
    }
    for plugin in plugins:
        for item in plugin.derivatives:
            for kind, choice in item.derivative.parts.items():
                for each in choice if isinstance(choice, list | tuple) else [choice]:
                    name = each.get("name") if isinstance(each, Mapping) else each
                    if name is not None and (kind, name) not in offered:
                        yield (
                            f"the derivative {item.derivative.name} of {plugin.name} needs the "
                            f"{kind.replace('_', ' ')} {name}, which no plugin offers: install the one that "
                            f"does, or tell the author of {plugin.distribution}"
                        )
