"""What a new plugin is called in a recipe, on a package index and in Python."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterator
from dataclasses import dataclass

import yaml

from edgelora.parts import Kind
from edgelora.registry import Registry

PREFIX = "edgelora-"
_NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
_LONGEST = 50


@dataclass(frozen=True, slots=True)
class PluginNames:
    """The names of a plugin with one part, all made of the part's name and kind.

    Attributes:
        name: Of the plugin and its part: ``"half-sum"``.
        kind: Of the part: ``"loss_combiner"``.
    """

    name: str
    kind: Kind

    @property
    def distribution(self) -> str:
        """What pip installs: ``"edgelora-half-sum"``."""
        return f"{PREFIX}{self.name}"

    @property
    def module(self) -> str:
        """What Python imports: ``"edgelora_half_sum"``."""
        return self.distribution.replace("-", "_")

    @property
    def stem(self) -> str:
        """What the names of its classes begin with: ``"HalfSum"``."""
        return _camel(self.name.split("-"))

    @property
    def kind_class(self) -> str:
        """The kind as classes spell it: ``"LossCombiner"``."""
        return _camel(self.kind.split("_"))


def name_defect(names: PluginNames, registry: Registry) -> str | None:
    """Why a new plugin cannot have this name, and what would do; None where it can.

    Args:
        names: Of the new plugin.
        registry: The installed plugins, whose names are taken.
    """
    name = names.name
    if name == PREFIX[:-1] or name.startswith((PREFIX, "edgelora_")):
        rest = name[len(PREFIX) :] or "my-method"
        return f"leave edgelora out of {name!r}: the distribution of {rest!r} is called {PREFIX}{rest}"
    if not _NAME.fullmatch(name) or len(name) > _LONGEST:
        return (
            f"{name!r} is no name of a part: up to {_LONGEST} lower-case letters, digits and single hyphens, "
            "a letter first, as in 'my-method'"
        )
    if yaml.safe_load(name) != name:
        return f"{name!r} means something else in a recipe: YAML reads it as {yaml.safe_load(name)!r}"
    for taken, owner in _taken(registry):
        if name == taken:
            return f"{name!r} is taken by {owner}; choose another name"
    # Found, not imported: edgelora_plugins and edgelora_cli are such modules too.
    if importlib.util.find_spec(names.module):
        return f"a module {names.module} is installed already; choose another name, or uninstall it first"
    return None


def _taken(registry: Registry) -> Iterator[tuple[str, str]]:
    """Every name in use, with what it is the name of."""
    for plugin in registry.plugins:
        yield plugin.name, f"a plugin of {plugin.distribution}"
        for item in plugin.derivatives:
            yield item.derivative.name, f"the derivatives of plugin {plugin.name}"
        for part in plugin.parts:
            yield part.part.name, f"the {part.kind.replace('_', ' ')}s of plugin {plugin.name}"


def _camel(words: list[str]) -> str:
    return "".join(word.capitalize() for word in words)
