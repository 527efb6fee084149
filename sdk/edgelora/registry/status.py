"""What became of each plugin, and what it offers."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from edgelora.parts import Derivative, Kind, Part
from edgelora.registry.discovery import BLOCK_VARIABLE, ONLY_VARIABLE, InstalledPlugin

TELL_ITS_AUTHOR = "or tell its author"
"""Ends the remedy for a user; what stands after it is for the author."""
State = Literal["ready", "broken", "conflict", "blocked"]


class PluginRefused(Exception):
    """Why a plugin is not admitted; the registry turns it into a status and never lets it out.

    Args:
        cause: What is wrong with the plugin.
        fix: What its user or author can do.
    """

    def __init__(self, cause: str, fix: str) -> None:
        super().__init__(cause)
        self.cause = cause
        self.fix = fix


@dataclass(frozen=True, slots=True)
class FoundPart:
    """A part and where it comes from."""

    kind: Kind
    part: Part
    plugin: str
    distribution: str
    version: str

    @property
    def qualified_name(self) -> str:
        """``"plugin:part"``, which is never ambiguous."""
        return f"{self.plugin}:{self.part.name}"

    @property
    def described(self) -> str:
        """How errors name it."""
        return f"{self.kind.replace('_', ' ')} {self.part.name!r} of plugin {self.plugin}"

    @property
    def remedy(self) -> str:
        """What to do when it breaks a rule."""
        return f"upgrade {self.distribution} ({self.version} is installed), {TELL_ITS_AUTHOR}"


@dataclass(frozen=True, slots=True)
class FoundDerivative:
    """A derivative and where it comes from."""

    derivative: Derivative
    plugin: str
    distribution: str
    version: str

    @property
    def qualified_name(self) -> str:
        """``"plugin:derivative"``, which is never ambiguous."""
        return f"{self.plugin}:{self.derivative.name}"


@dataclass(frozen=True, slots=True)
class PluginStatus:
    """One installed plugin, usable or not.

    Attributes:
        name: Its entry point's name.
        state: ``ready``; ``broken``: it failed to load or breaks a rule; ``conflict``: another distribution
            has a plugin of this name; ``blocked``: unwanted by the user, and not even imported.
        distribution: What to ``pip install`` or uninstall.
        version: Of the distribution.
        module: What its entry point names.
        cause: Why it is not ready; empty when it is.
        fix: What to do about that; empty when it is ready.
        parts: What it offers, in its own order; empty unless ready.
        derivatives: The same for derivatives.
        imports_heavy: Merely listing it imported the packages of ``heavy_imports``.
        heavy_imports: Names such as ``"torch"``.
    """

    name: str
    state: State
    distribution: str
    version: str
    module: str
    cause: str = ""
    fix: str = ""
    parts: tuple[FoundPart, ...] = ()
    derivatives: tuple[FoundDerivative, ...] = ()
    heavy_imports: tuple[str, ...] = ()

    @property
    def imports_heavy(self) -> bool:
        """Whether merely listing it imported heavy packages."""
        return bool(self.heavy_imports)

    @property
    def warning(self) -> str:
        """What a listing should warn of; empty when there is nothing."""
        if not self.heavy_imports:
            return ""
        return (
            f"{self.name} imports {', '.join(self.heavy_imports)} when merely listed, which slows every "
            f"command; its author should import inside the targets of its parts (ask {self.distribution})"
        )


def broken(plugin: InstalledPlugin, cause: str, fix: str) -> PluginStatus:
    """The status of a plugin that failed to load or breaks a rule."""
    return PluginStatus(
        plugin.name, "broken", plugin.distribution, plugin.version, plugin.target, cause=cause, fix=fix
    )


def blocked(plugin: InstalledPlugin, *, by_block: bool) -> PluginStatus:
    """The status of a plugin the user does not want, by one variable or the other."""
    cause, fix = (
        (f"{BLOCK_VARIABLE} names it", f"remove {plugin.name} from {BLOCK_VARIABLE}")
        if by_block
        else (f"{ONLY_VARIABLE} does not name it", f"add {plugin.name} to {ONLY_VARIABLE}")
    )
    return PluginStatus(
        plugin.name, "blocked", plugin.distribution, plugin.version, plugin.target, cause=cause, fix=fix
    )


def in_conflict(plugin: InstalledPlugin, rivals: Iterable[InstalledPlugin]) -> PluginStatus:
    """The status of a plugin whose name other distributions claim."""
    owners = ", ".join(sorted({f"{rival.distribution} {rival.version}" for rival in rivals}))
    first_party = any(rival.is_first_party for rival in rivals)
    claim = "belongs to" if first_party else "is also claimed by"
    remedy = (
        f"uninstall {plugin.distribution}, or ask its author to rename the plugin"
        if first_party
        else f"uninstall one of {', '.join(sorted({plugin.distribution, *(r.distribution for r in rivals)}))}"
    )
    return PluginStatus(
        plugin.name,
        "conflict",
        plugin.distribution,
        plugin.version,
        plugin.target,
        cause=f"{plugin.distribution} {plugin.version}: the name {plugin.name!r} {claim} {owners}",
        fix=remedy,
    )
