"""Which plugins there are, which of them work, and what they offer by name.

One plugin that fails never takes another down: it is reported with its cause, and the rest load.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
import traceback
from collections.abc import Collection, Mapping

import pluggy

from edgelora import hookspecs
from edgelora.parts import KINDS, Derivative, Kind, Part
from edgelora.raised import described_exception
from edgelora.registry.admission import (
    DERIVATIVES_HOOK,
    HOOK_OF_KIND,
    check_api_version,
    check_derivatives,
    check_hooks,
    check_parts,
    offers_of,
)
from edgelora.registry.discovery import (
    BLOCK_VARIABLE,
    ONLY_VARIABLE,
    InstalledPlugin,
    conflicts,
    installed_plugins,
    is_plugin_name,
)
from edgelora.registry.lookup import find
from edgelora.registry.remarks import lost_parts, shared_names
from edgelora.registry.status import (
    FoundDerivative,
    FoundPart,
    PluginRefused,
    PluginStatus,
    blocked,
    broken,
    in_conflict,
)

HEAVY = ("torch", "numpy", "transformers", "peft", "bitsandbytes", "accelerate", "polars", "huggingface_hub")
"""Packages a plugin must not import when it is merely listed."""


class Registry:
    """The plugins of this environment, and their parts and derivatives by name."""

    def __init__(self) -> None:
        """Start without any plugin; see `discover` and `from_modules`."""
        self._manager = pluggy.PluginManager(hookspecs.PROJECT)
        self._manager.add_hookspecs(hookspecs)
        self._statuses: list[PluginStatus] = []
        self._warnings: list[str] = []

    @classmethod
    def discover(
        cls, *, only: Collection[str] | None = None, block: Collection[str] | None = None
    ) -> Registry:
        """Load every installed plugin that is wanted.

        Args:
            only: Names of the plugins to load; no other is even imported. None reads ``EDGELORA_ONLY``
                (names separated by commas); where that is empty too, all are wanted.
            block: Names of plugins not to import. None reads ``EDGELORA_BLOCK``.
        """
        registry = cls()
        wanted = _names_from(ONLY_VARIABLE) if only is None else frozenset(only)
        unwanted = _names_from(BLOCK_VARIABLE) if block is None else frozenset(block)
        plugins = installed_plugins()
        rivals = conflicts(plugins)
        for plugin in plugins:
            if plugin.name in unwanted or (wanted and plugin.name not in wanted):
                status = blocked(plugin, by_block=plugin.name in unwanted)
            elif plugin in rivals:
                status = in_conflict(plugin, rivals[plugin])
            else:
                status = registry._load(plugin)
            registry._statuses.append(status)
        unknown = sorted((wanted | unwanted) - {plugin.name for plugin in plugins})
        registry._warnings += [f"no plugin {name!r} is installed to be chosen or blocked" for name in unknown]
        return registry

    @classmethod
    def from_modules(
        cls, modules: Mapping[str, object], *, distribution: str = "local", version: str = "0"
    ) -> Registry:
        """Load plugins that are already imported, by the same rules; for tests and notebooks."""
        registry = cls()
        for name, module in modules.items():
            target = str(getattr(module, "__name__", type(module).__name__))
            plugin = InstalledPlugin(name, target, distribution, version)
            registry._statuses.append(registry._load(plugin, module))
        return registry

    @property
    def plugins(self) -> tuple[PluginStatus, ...]:
        """Every installed plugin, usable or not, sorted by name."""
        return tuple(sorted(self._statuses, key=lambda status: (status.name, status.distribution)))

    @property
    def warnings(self) -> tuple[str, ...]:
        """What a listing should say beside the plugins.

        Unknown names in the variables, heavy plugins, names that several plugins use, and derivatives of
        parts that nobody offers.
        """
        heavy = (status.warning for status in self.plugins if status.warning)
        return (*self._warnings, *heavy, *shared_names(self.plugins), *lost_parts(self.plugins))

    def parts(self, kind: Kind) -> tuple[FoundPart, ...]:
        """All parts of a kind, sorted by name, then plugin."""
        found = (part for status in self.plugins for part in status.parts if part.kind == kind)
        return tuple(sorted(found, key=lambda part: part.part.name))

    def derivatives(self) -> tuple[FoundDerivative, ...]:
        """All derivatives, sorted by name, then plugin."""
        found = (derivative for status in self.plugins for derivative in status.derivatives)
        return tuple(sorted(found, key=lambda derivative: derivative.derivative.name))

    def part(self, kind: Kind, name: str) -> FoundPart:
        """The part called ``name`` or ``plugin:name``.

        Raises:
            PartNotFound: No plugin that works offers it.
            AmbiguousPart: Several plugins offer it and the name is not qualified.
        """
        return find(name, kind, self.parts(kind), self.plugins)

    def derivative(self, name: str) -> FoundDerivative:
        """The derivative called ``name`` or ``plugin:name``.

        Raises:
            PartNotFound: No plugin that works offers it.
            AmbiguousPart: Several plugins offer it and the name is not qualified.
        """
        return find(name, "derivative", self.derivatives(), self.plugins)

    def _load(self, plugin: InstalledPlugin, loaded: object = None) -> PluginStatus:
        light_before = {name for name in HEAVY if name not in sys.modules}
        try:
            # What a plugin prints must not end up in the JSON of a command.
            with contextlib.redirect_stdout(sys.stderr):
                if plugin.defect or not is_plugin_name(plugin.name):
                    raise PluginRefused(
                        plugin.defect
                        or f"{plugin.name!r} is no plugin name: use letters, digits, '-', '_', '.'",
                        f"reinstall or uninstall {plugin.distribution}, and tell its author",
                    )
                module = _import(plugin.target) if loaded is None else loaded
                parts, derivatives = self._admit(plugin.name, module)
        except PluginRefused as refusal:
            return broken(plugin, refusal.cause, refusal.fix)
        # A plugin is a stranger's code: whatever it raises, even sys.exit(), concerns that plugin only.
        except (Exception, SystemExit) as error:
            return broken(plugin, *_explain(error, plugin))
        heavy = tuple(name for name in HEAVY if name in light_before and name in sys.modules)
        origin = (plugin.name, plugin.distribution, plugin.version)
        return PluginStatus(
            name=plugin.name,
            state="ready",
            distribution=plugin.distribution,
            version=plugin.version,
            module=plugin.target,
            parts=tuple(FoundPart(kind, part, *origin) for kind, part in parts),
            derivatives=tuple(FoundDerivative(derivative, *origin) for derivative in derivatives),
            heavy_imports=heavy,
        )

    def _admit(self, name: str, module: object) -> tuple[list[tuple[Kind, Part]], tuple[Derivative, ...]]:
        """Register a plugin and collect what it offers, or leave no trace of it."""
        check_api_version(module)
        check_hooks(module, self._manager)
        known_as = self._manager.get_name(module)
        if known_as:
            raise PluginRefused(
                f"is the same module as plugin {known_as!r}", "remove one of the entry points"
            )
        if self._manager.has_plugin(name):
            raise PluginRefused(f"another plugin is called {name!r} too", "rename one of the entry points")
        admitted = False
        try:
            self._manager.register(module, name)
            parts: list[tuple[Kind, Part]] = []
            for kind in KINDS:
                offers = offers_of(module, getattr(self._manager.hook, HOOK_OF_KIND[kind]))
                parts += [(kind, part) for part in check_parts(offers, kind)]
            derivatives = check_derivatives(offers_of(module, getattr(self._manager.hook, DERIVATIVES_HOOK)))
            admitted = True
            return parts, derivatives
        finally:
            # pluggy before 1.7 leaves a plugin half registered when its validation fails.
            if not admitted and self._manager.has_plugin(name):
                self._manager.unregister(name=name)


def _names_from(variable: str) -> frozenset[str]:
    return frozenset(name.strip() for name in os.environ.get(variable, "").split(",") if name.strip())


def _import(target: str) -> object:
    module, _, attributes = target.partition(":")
    found: object = importlib.import_module(module.strip())
    for attribute in filter(None, attributes.split("[")[0].strip().split(".")):
        found = getattr(found, attribute)
    return found


def _explain(error: BaseException, plugin: InstalledPlugin) -> tuple[str, str]:
    where = _place(error)
    hide = f"or hide the plugin: {BLOCK_VARIABLE}={plugin.name}"
    if isinstance(error, ModuleNotFoundError) and error.name:
        if plugin.target.partition(":")[0].startswith(error.name):
            return f"its module {error.name} is gone", f"reinstall or uninstall {plugin.distribution}, {hide}"
        return (
            f"needs the module {error.name}, which is not installed{where}",
            f"install {error.name}, {hide}",
        )
    if isinstance(error, SystemExit):
        return f"called sys.exit({error.code!r}){where}", f"tell the author of {plugin.distribution}, {hide}"
    told = described_exception(error)
    return (
        told if isinstance(error, SyntaxError) else f"{told}{where}",
        f"upgrade {plugin.distribution} or tell its author, {hide}",
    )


def _place(error: BaseException) -> str:
    """The line of the stranger's code, from the first frame that is neither ours nor the import system's."""
    frames = traceback.extract_tb(error.__traceback__)
    outside = [frame for frame in frames if "importlib" not in frame.filename and frame.filename != __file__]
    return f" ({outside[-1].filename}:{outside[-1].lineno})" if outside else ""
