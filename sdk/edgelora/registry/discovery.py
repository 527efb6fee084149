"""Which plugins are installed: entry points of the group ``edgelora``, read without importing any plugin."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from edgelora.hookspecs import ENTRY_POINT_GROUP
from edgelora.registry.dist_info import DistInfo, distributions_mentioning, entry_points

FIRST_PARTY = "edgelora"
"""The distribution whose plugin names nobody else can take."""

BLOCK_VARIABLE = "EDGELORA_BLOCK"
ONLY_VARIABLE = "EDGELORA_ONLY"

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True, slots=True)
class InstalledPlugin:
    """An entry point, before anything of it is imported.

    Attributes:
        name: Of the entry point.
        target: ``"module"`` or ``"module:attribute"``.
        distribution: Name of the distribution that declares it.
        version: Of the distribution.
        defect: Why it cannot be loaded at all; empty when nothing is known against it.
    """

    name: str
    target: str
    distribution: str
    version: str
    defect: str = ""

    @property
    def is_first_party(self) -> bool:
        """Whether it comes with edgelora itself."""
        return canonical_name(self.distribution) == FIRST_PARTY


def installed_plugins() -> list[InstalledPlugin]:
    """All plugins on ``sys.path``, sorted by name, then distribution.

    Where a distribution is on the path twice, the first counts, as it does for ``import``. One with
    unreadable metadata hides no other.
    """
    found: dict[str, list[InstalledPlugin]] = {}
    for distribution in distributions_mentioning(f"[{ENTRY_POINT_GROUP}]"):
        key = canonical_name(distribution.name)
        if key not in found:
            found[key] = _plugins_of(distribution)
    plugins = (plugin for group in found.values() for plugin in group)
    return sorted(plugins, key=lambda plugin: (plugin.name, plugin.distribution))


def canonical_name(distribution: str) -> str:
    """A distribution's name as PyPI compares it: lower case, runs of ``-_.`` as one hyphen."""
    return re.sub(r"[-_.]+", "-", distribution).lower()


def conflicts(plugins: Iterable[InstalledPlugin]) -> Mapping[InstalledPlugin, tuple[InstalledPlugin, ...]]:
    """Plugins that cannot have their name, each with those that claim it too.

    A first-party name stays first-party: only the others are in conflict.
    """
    by_name: dict[str, list[InstalledPlugin]] = {}
    for plugin in plugins:
        by_name.setdefault(plugin.name, []).append(plugin)
    return {
        plugin: tuple(rival for rival in rivals if rival is not plugin)
        for rivals in by_name.values()
        if len(rivals) > 1
        for plugin in rivals
        if not plugin.is_first_party
    }


def is_plugin_name(name: str) -> bool:
    """Whether ``plugin:part`` and comma-separated lists can hold this name."""
    return _NAME.fullmatch(name) is not None


def _plugins_of(distribution: DistInfo) -> list[InstalledPlugin]:
    name, version = distribution.name, distribution.version
    try:
        points = entry_points(distribution.entry_points, ENTRY_POINT_GROUP)
    except ValueError as error:
        return [InstalledPlugin(name, "", name, version, f"its entry_points.txt is malformed: {error}")]
    return [InstalledPlugin(point, target, name, version) for point, target in dict.fromkeys(points)]
