"""What an adapter needs to be applied: one component as it stands, and plugins that are there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from edgelora.errors import FeatureRequired, PluginMissing
from edgelora.manifest.components import Component, PluginRef
from edgelora.manifest.lora_shapes import is_plain_lora
from edgelora.manifest.models import Manifest


@dataclass(frozen=True, slots=True)
class InstalledPlugin:
    """A plugin that is ready to be used."""

    distribution: str
    version: str
    wheel_digest: str | None = None
    """Of the wheel it was installed from, where that is known."""


def only_component(manifest: Manifest) -> Component:
    """The component of an adapter that has one, whose output is added as it is.

    Raises:
        FeatureRequired: It composes several, or scales the output of the one.
    """
    name, components = manifest.identity.name, manifest.components
    if len(components) != 1:
        raise FeatureRequired(
            f"the manifest of {name} has {len(components)} components, and this edgelora reads one",
            fix="upgrade edgelora",
        )
    (component,) = components
    if component.scale is not None and float(component.scale) != 1:
        raise FeatureRequired(
            f"the component of {name} has a scale of {component.scale}, and this edgelora reads none but 1",
            fix="upgrade edgelora",
        )
    return component


def check_plugins(manifest: Manifest, installed: Mapping[str, InstalledPlugin]) -> None:
    """Refuse an adapter whose parts cannot be rebuilt with the plugins that are installed.

    Args:
        manifest: Of the adapter.
        installed: The plugins that are ready, by name.

    Raises:
        PluginMissing: A plugin is not there, comes from another distribution, is of another version than the
            manifest accepts, or was installed from another wheel than it names. Names what to install;
            nothing is ever installed on its word.
    """
    from packaging.specifiers import SpecifierSet

    for component in manifest.components:
        for wanted in _needed(component):
            found = installed.get(wanted.name)
            range_ = wanted.version or ""
            if found is None or found.distribution != wanted.distribution:
                raise PluginMissing(
                    f"the adapter needs plugin {wanted.name!r} of {wanted.distribution}{range_}, "
                    "which is not installed",
                    fix=f"if you trust it: pip install '{wanted.distribution}{range_}'",
                )
            if not SpecifierSet(range_).contains(found.version, prereleases=True):
                raise PluginMissing(
                    f"the adapter needs plugin {wanted.name!r} of {wanted.distribution}{range_}, "
                    f"and {found.version} is installed",
                    fix=f"pip install '{wanted.distribution}{range_}'",
                )
            if wanted.wheel_digest and found.wheel_digest not in (None, wanted.wheel_digest):
                raise PluginMissing(
                    f"the adapter needs plugin {wanted.name!r} from the wheel {wanted.wheel_digest}, "
                    f"and {wanted.distribution} was installed from {found.wheel_digest}",
                    fix="install that wheel, if you trust it, or ask the adapter's publisher",
                )


def _needed(component: Component) -> Iterator[PluginRef]:
    """What rebuilds its layers: plain LoRA needs no plugin but that of its quantizer."""
    kinds = ("quantizer",) if is_plain_lora(component) else ("adapter", "quantizer")
    for kind, part in component.parts.items():
        if kind in kinds:
            yield PluginRef(name=part.plugin, distribution=part.distribution)
    if component.derivative.plugin and not is_plain_lora(component):
        yield component.derivative.plugin
