"""What a manifest asks of the reader: this edgelora, and the plugins of its parts."""

from __future__ import annotations

from packaging.specifiers import SpecifierSet

from edgelora.errors import FeatureRequired, PartNotFound, PluginMissing
from edgelora.manifest import Component, Manifest
from edgelora.parts import Kind
from edgelora.registry import Registry
from edgelora.registry.status import FoundPart
from edgelora.version import __version__


def check_runtime(manifest: Manifest) -> None:
    """Refuse an adapter that needs another edgelora.

    Raises:
        FeatureRequired: Names the versions that will do.
    """
    wanted = manifest.runtime.edgelora if manifest.runtime else None
    if wanted and not SpecifierSet(wanted).contains(__version__, prereleases=True):
        raise FeatureRequired(
            f"adapter {manifest.identity.name} needs edgelora {wanted}, and this is {__version__}",
            fix=f"pip install 'edgelora{wanted}'",
        )


def required_part(component: Component, kind: Kind, registry: Registry) -> FoundPart:
    """The installed part that a component names for a kind.

    Raises:
        PluginMissing: It is not usable here; names the distribution and version to install.
    """
    part = component.parts[kind]
    try:
        return registry.part(kind, f"{part.plugin}:{part.name}")
    except PartNotFound as error:
        raise PluginMissing(
            f"the adapter needs {kind} {part.name!r} of plugin {part.plugin!r}, which is not usable here: "
            f"{error.problem}",
            fix=remedy(part.plugin, f"{part.distribution}>={part.version}", error, registry),
        ) from error


def remedy(plugin: str, requirement: str, error: PartNotFound, registry: Registry) -> str:
    """What to do about a plugin that is not usable: installing helps unless it is there and does not load."""
    is_there = any(each.name == plugin and each.state != "ready" for each in registry.plugins)
    return error.fix if is_there else f"pip install '{requirement}'"
