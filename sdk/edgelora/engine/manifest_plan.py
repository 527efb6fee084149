"""From a manifest back to the plan that rebuilds its adapter."""

from __future__ import annotations

from typing import Any

from packaging.specifiers import SpecifierSet

from edgelora import __version__
from edgelora.errors import FeatureRequired, PartNotFound, PluginMissing, TensorsMismatch
from edgelora.manifest import Component, Manifest
from edgelora.plan import Plan, make_plan
from edgelora.recipe import make_recipe
from edgelora.registry import Registry


def plan_of(manifest: Manifest, registry: Registry, *, base: str, dtype: str) -> Plan:
    """The plan with which the adapter of ``manifest`` is rebuilt.

    Raises:
        PluginMissing: Names the distribution and version to install.
        FeatureRequired: The manifest composes several components.
    """
    if len(manifest.components) != 1:
        raise FeatureRequired(
            f"the manifest has {len(manifest.components)} components, and this edgelora applies one",
            fix="upgrade edgelora",
        )
    component = manifest.components[0]
    _check_runtime(manifest)
    derivative = _derivative(component, registry)
    for kind in ("quantizer", "adapter"):
        if kind in component.parts:
            _check_installed(component, kind, registry)
    chosen = {
        kind: {**part.options, "name": f"{part.plugin}:{part.name}"}
        for kind, part in component.parts.items()
        if kind in ("quantizer", "adapter")
    }
    if "targetModules" not in component.config:
        raise TensorsMismatch(
            f"the manifest of {manifest.identity.name} does not say which linears it adapts",
            fix="ask its publisher to pack it again",
        )
    chosen["adapter"]["target_modules"] = list(component.config["targetModules"])
    chosen["adapter"].pop("exclude_modules", None)
    recipe = make_recipe(
        {
            "derivative": derivative,
            **chosen,
            "base": base,
            "skip_modules": list(component.config.get("skipModules", [])),
            "train": {"dtype": dtype},
        },
        where="the manifest",
    )
    return make_plan(recipe, registry)


def _check_runtime(manifest: Manifest) -> None:
    wanted = manifest.runtime.edgelora if manifest.runtime else None
    if wanted and not SpecifierSet(wanted).contains(__version__, prereleases=True):
        raise FeatureRequired(
            f"adapter {manifest.identity.name} needs edgelora {wanted}, and this is {__version__}",
            fix=f"pip install 'edgelora{wanted}'",
        )


def _derivative(component: Component, registry: Registry) -> str:
    wanted = component.derivative
    name = f"{wanted.plugin.name}:{wanted.name}" if wanted.plugin else wanted.name
    try:
        registry.derivative(name)
    except PartNotFound as error:
        distribution = wanted.plugin.distribution if wanted.plugin else "the plugin that offers it"
        raise PluginMissing(
            f"the adapter was made with derivative {name!r}, which is not usable here: {error.problem}",
            fix=f"pip install {distribution}",
        ) from error
    return name


def _check_installed(component: Component, kind: Any, registry: Registry) -> None:
    part = component.parts[kind]
    try:
        registry.part(kind, f"{part.plugin}:{part.name}")
    except PartNotFound as error:
        raise PluginMissing(
            f"the adapter needs {kind} {part.name!r} of plugin {part.plugin!r}, which is not usable here: "
            f"{error.problem}",
            fix=f"pip install '{part.distribution}>={part.version}'",
        ) from error
