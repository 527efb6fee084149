"""The rules a plugin must keep to be admitted. Each function raises ``PluginRefused`` with cause and fix."""

from __future__ import annotations

import difflib
import inspect
import itertools
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import pluggy

from edgelora import hookspecs
from edgelora.capabilities import ABILITIES
from edgelora.parts import KINDS, Derivative, Kind, Part
from edgelora.registry.status import PluginRefused

HOOK_OF_KIND: dict[Kind, str] = {kind: f"edgelora_{kind}s" for kind in KINDS}
DERIVATIVES_HOOK = "edgelora_derivatives"
HOOKS: tuple[str, ...] = (*HOOK_OF_KIND.values(), DERIVATIVES_HOOK)

_MOST_OFFERS = 1000
"""Stops a generator that never ends."""
_PART_NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
_TARGET = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")


def check_api_version(plugin: object) -> None:
    """Refuse a plugin that needs a newer hook API, before any of its hooks is looked at."""
    needed = getattr(plugin, "edgelora_api", 1)
    if not isinstance(needed, int) or isinstance(needed, bool) or needed < 1:
        raise PluginRefused(f"edgelora_api is {needed!r}, not a number from 1", "write edgelora_api = 1")
    if needed > hookspecs.API_VERSION:
        raise PluginRefused(
            f"needs hook API {needed}, this edgelora supports {hookspecs.API_VERSION}",
            "upgrade edgelora (pip install -U edgelora), or install an older version of the plugin",
        )


def check_hooks(plugin: object, manager: pluggy.PluginManager) -> None:
    """Refuse misspelt hooks, hooks with arguments, wrappers, unmarked hooks, and plugins without any hook."""
    marked = 0
    for attribute in dir(plugin):
        options = manager.parse_hookimpl_opts(plugin, attribute)
        if options is not None:
            marked += 1
            hook = options.get("specname") or attribute
            _check_hook(hook, getattr(plugin, attribute), options)
        elif attribute in HOOKS and callable(getattr(plugin, attribute)):
            raise PluginRefused(
                f"{attribute} is not marked as a hook", "write @hookimpl (from edgelora) above its def"
            )
    if not marked:
        raise PluginRefused("implements no hook", f"implement one of {', '.join(HOOKS)} with @hookimpl")


def _check_hook(hook: str, function: Callable[..., Any], options: Mapping[str, Any]) -> None:
    if hook not in HOOKS:
        if options.get("optionalhook"):
            return
        near = difflib.get_close_matches(hook, HOOKS, n=1, cutoff=0.5)
        raise PluginRefused(
            f"there is no hook {hook}",
            f"did you mean {near[0]}?" if near else f"use one of {', '.join(HOOKS)}",
        )
    if options.get("wrapper") or options.get("hookwrapper"):
        raise PluginRefused(
            f"{hook} is a wrapper, which could change what other plugins offer", "write @hookimpl without it"
        )
    names = list(inspect.signature(function).parameters)
    if names:
        raise PluginRefused(
            f"{hook} takes no arguments, but this one declares {', '.join(names)}", f"write def {hook}():"
        )


def offers_of(plugin: object, hook: pluggy.HookCaller) -> list[Any]:
    """What one plugin answers to one hook, as a list; a plugin without the hook, or None, offers nothing."""
    offers: list[Any] = []
    for implementation in hook.get_hookimpls():
        if implementation.plugin is plugin:
            offers += _as_list(implementation.function, hook.name)
    return offers


def _as_list(function: Callable[[], Any], hook: str) -> list[Any]:
    answer = function()
    if answer is None:
        return []
    if isinstance(answer, str | Mapping) or not isinstance(answer, Iterable):
        raise PluginRefused(
            f"{hook} returned {type(answer).__name__}, not a list", f"write return [...] in {hook}"
        )
    offers = list(itertools.islice(answer, _MOST_OFFERS + 1))
    if len(offers) > _MOST_OFFERS:
        raise PluginRefused(f"{hook} offers more than {_MOST_OFFERS} things", "return a finite list")
    return offers


def check_parts(parts: Iterable[Any], kind: Kind) -> tuple[Part, ...]:
    """Refuse anything that is not a well-formed part, or two parts of one name."""
    checked: dict[str, Part] = {}
    for part in parts:
        if not isinstance(part, Part):
            raise PluginRefused(
                f"{HOOK_OF_KIND[kind]} offers {part!r}, which is not a Part", "return edgelora.Part objects"
            )
        _check_name(part.name, kind)
        if part.name in checked:
            raise PluginRefused(f"offers two {kind}s {part.name!r}", "give one of them another name")
        _check_part(part, f"{kind} {part.name!r}")
        checked[part.name] = part
    return tuple(checked.values())


def _check_part(part: Part, where: str) -> None:
    if not isinstance(part.target, str) or not _TARGET.fullmatch(part.target):
        raise PluginRefused(
            f"{where}: the target {part.target!r} is not of the form 'module:attribute'",
            "write it as in 'my_plugin.layer:MyAdapter'",
        )
    _check_options(part.options, where)
    for ability in part.abilities:
        if ability not in ABILITIES:
            near = difflib.get_close_matches(str(ability), ABILITIES, n=1)
            raise PluginRefused(
                f"{where}: there is no ability {ability!r}",
                f"did you mean {near[0]!r}?" if near else f"use {', '.join(ABILITIES)}",
            )
    for refused in part.refuses:
        kind, _, name = str(refused).partition(":")
        if refused not in ABILITIES and (kind not in KINDS or not name):
            raise PluginRefused(
                f"{where}: refuses {refused!r}, which is not of the form 'kind:name', and no ability",
                f"write it as in 'quantizer:nf4', or one of {', '.join(ABILITIES)}",
            )


def _check_options(options: object, where: str) -> None:
    if isinstance(options, str):
        if not _TARGET.fullmatch(options):
            raise PluginRefused(
                f"{where}: the options {options!r} are not of the form 'module:Class'",
                "write them as in 'my_plugin.options:MyOptions'",
            )
        return
    # Imported here because it imports pydantic, which a plugin that passes a class has imported already.
    from edgelora.plan.options import options_defect

    defect = options_defect(options)
    if defect:
        cause, fix = defect
        raise PluginRefused(f"{where}: {cause}", fix)


def check_derivatives(derivatives: Iterable[Any]) -> tuple[Derivative, ...]:
    """Refuse anything that is not a well-formed derivative, or two of one name."""
    checked: dict[str, Derivative] = {}
    for derivative in derivatives:
        if not isinstance(derivative, Derivative):
            raise PluginRefused(
                f"{DERIVATIVES_HOOK} offers {derivative!r}, which is not a Derivative",
                "return edgelora.Derivative objects",
            )
        _check_name(derivative.name, "derivative")
        if derivative.name in checked:
            raise PluginRefused(f"offers two derivatives {derivative.name!r}", "rename one of them")
        if not isinstance(derivative.parts, Mapping):
            raise PluginRefused(
                f"derivative {derivative.name!r}: parts is not a mapping", "write parts={'adapter': ...}"
            )
        for kind, choice in derivative.parts.items():
            _check_choice(kind, choice, f"derivative {derivative.name!r}")
        checked[derivative.name] = derivative
    return tuple(checked.values())


def _check_choice(kind: str, choice: Any, where: str) -> None:
    if kind not in KINDS:
        near = difflib.get_close_matches(str(kind), KINDS, n=1)
        raise PluginRefused(
            f"{where}: there is no kind of part {kind!r}",
            f"did you mean {near[0]!r}?" if near else f"use one of {', '.join(KINDS)}",
        )
    many = kind == "evaluator" and isinstance(choice, list | tuple)
    for one in choice if many else (choice,):
        name = one.get("name") if isinstance(one, Mapping) else one
        if not isinstance(name, str):
            raise PluginRefused(
                f"{where}: {kind} is {one!r}, which names no part",
                f"write {{'{kind}': 'name'}} or {{'{kind}': {{'name': ..., option: value}}}}",
            )


def _check_name(name: Any, what: str) -> None:
    if not isinstance(name, str) or not _PART_NAME.fullmatch(name):
        raise PluginRefused(
            f"{what} {name!r}: a name is made of lower-case letters, digits and single hyphens",
            "rename it, as in 'my-adapter'",
        )
