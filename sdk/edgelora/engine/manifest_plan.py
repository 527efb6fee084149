"""From a manifest back to the plan that rebuilds its adapter."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from types import MappingProxyType
from typing import Any

from edgelora.engine.published import plain_lora_part
from edgelora.engine.required_parts import check_runtime, remedy, required_part
from edgelora.errors import PartNotFound, PluginMissing, TensorsMismatch
from edgelora.manifest import Component, Manifest
from edgelora.manifest.lora_shapes import is_plain_lora
from edgelora.manifest.requirements import InstalledPlugin, check_plugins, only_component
from edgelora.parts import Derivative
from edgelora.plan import Plan, make_plan
from edgelora.plan.choice import choose_part
from edgelora.recipe import make_recipe
from edgelora.registry import Registry
from edgelora.registry.status import FoundDerivative
from edgelora.registry.wheel import wheel_digest


def plan_of(manifest: Manifest, registry: Registry, *, base: str, dtype: str) -> Plan:
    """The plan with which the adapter of ``manifest`` is rebuilt.

    Raises:
        PluginMissing: Names the distribution and version to install.
        FeatureRequired: The manifest composes several components, or scales one.
    """
    make = _plain_plan if is_plain_lora(only_component(manifest)) else _whole_plan
    return _planned(make, manifest, registry, base, dtype)


def trained_plan_of(manifest: Manifest, registry: Registry, *, base: str, dtype: str) -> Plan:
    """The plan with the adapter part that trained it, also where the weights are plain LoRA's.

    Raises:
        PluginMissing: Names the distribution and version to install.
        FeatureRequired: The manifest composes several components, or scales one.
    """
    return _planned(_whole_plan, manifest, registry, base, dtype)


def _planned(
    make: Callable[[Component, dict[str, Any], Registry], Plan],
    manifest: Manifest,
    registry: Registry,
    base: str,
    dtype: str,
) -> Plan:
    component = only_component(manifest)
    check_runtime(manifest)
    needs_sites = make is _plain_plan or not _wraps_nothing(component, registry)
    if "targetModules" not in component.config and needs_sites:
        raise TensorsMismatch(
            f"the manifest of {manifest.identity.name} does not say which linears it adapts",
            fix="ask its publisher to pack it again",
        )
    surroundings = {
        "base": base,
        "skip_modules": list(component.config.get("skipModules", [])),
        "train": {"dtype": dtype},
    }
    plan = make(component, surroundings, registry)
    # Last, for what does not load has a cause to tell; here the version or the distribution is another one.
    named = component.derivative.plugin
    check_plugins(
        manifest,
        {
            plugin.name: InstalledPlugin(
                plugin.distribution,
                plugin.version,
                wheel_digest(plugin.distribution) if named and plugin.name == named.name else None,
            )
            for plugin in registry.plugins
            if plugin.state == "ready"
        },
    )
    return plan


def _wraps_nothing(component: Component, registry: Registry) -> bool:
    """Whether the adapter changes the model as a whole."""
    return "AdaptsModel" in required_part(component, "adapter", registry).part.abilities


def can_stay_in_files(plan: Plan) -> bool:
    """Whether the weights of an unquantized base may stay in its files: the adapter wraps sites of it."""
    parts = plan.parts
    whole = "AdaptsModel" in parts["adapter"].part.abilities
    return parts["quantizer"].part.keeps_weights and not whole


def left_in_files(plan: Plan) -> Plan:
    """The same plan over a base that stays in its files."""
    train = plan.recipe.train.model_copy(update={"streamed": True})
    return dataclasses.replace(plan, recipe=plan.recipe.model_copy(update={"train": train}))


def _whole_plan(component: Component, surroundings: dict[str, Any], registry: Registry) -> Plan:
    """The plan whose adapter part is the one that trained it."""
    derivative = _derivative(component, registry)
    required_part(component, "adapter", registry)
    chosen = _chosen(component, registry)
    adapter = component.parts["adapter"]
    chosen["adapter"] = {**adapter.options, "name": f"{adapter.plugin}:{adapter.name}"}
    if "targetModules" in component.config:
        chosen["adapter"]["target_modules"] = list(component.config["targetModules"])
        chosen["adapter"].pop("exclude_modules", None)
    recipe = make_recipe({"derivative": derivative, **chosen, **surroundings}, where="the manifest")
    tasks = tuple(component.config.get("taskNames", ()))
    plan = make_plan(recipe, registry)
    return dataclasses.replace(plan, tasks=tasks or plan.tasks)


def _plain_plan(component: Component, surroundings: dict[str, Any], registry: Registry) -> Plan:
    """Plain LoRA needs no plugin but that of its quantizer."""
    wanted = component.derivative
    made_by = wanted.plugin or component.parts["adapter"]
    origin = FoundDerivative(
        Derivative(wanted.name), made_by.name, made_by.distribution, component.parts["adapter"].version
    )
    document = {"derivative": wanted.name, **_chosen(component, registry), **surroundings}
    recipe = make_recipe(document, where="the manifest")
    parts = {
        "quantizer": choose_part("quantizer", recipe.quantizer, origin, registry),
        "adapter": plain_lora_part(component.config),
    }
    return Plan(recipe, wanted.name, origin, MappingProxyType(parts), (), ("main",))


def _chosen(component: Component, registry: Registry) -> dict[str, Any]:
    """The quantizer as a recipe names it; nothing where the manifest names none."""
    if "quantizer" not in component.parts:
        return {}
    required_part(component, "quantizer", registry)
    part = component.parts["quantizer"]
    return {"quantizer": {**part.options, "name": f"{part.plugin}:{part.name}"}}


def _derivative(component: Component, registry: Registry) -> str:
    wanted = component.derivative
    name = f"{wanted.plugin.name}:{wanted.name}" if wanted.plugin else wanted.name
    try:
        registry.derivative(name)
    except PartNotFound as error:
        adapter = component.parts["adapter"]
        made_by = wanted.plugin or adapter
        version = f">={adapter.version}" if made_by.distribution == adapter.distribution else ""
        raise PluginMissing(
            f"the adapter was made with derivative {name!r}, which is not usable here: {error.problem}",
            fix=remedy(made_by.name, f"{made_by.distribution}{version}", error, registry),
        ) from error
    return name
