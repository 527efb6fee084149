"""Finding a part or derivative by name, and saying well why there is none."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from typing import TypeVar

from edgelora.errors import AmbiguousPart, PartNotFound
from edgelora.registry.status import FoundDerivative, FoundPart, PluginStatus

Found = TypeVar("Found", FoundPart, FoundDerivative)


def find(name: str, kind: str, offered: Sequence[Found], plugins: Iterable[PluginStatus]) -> Found:
    """The one thing of ``offered`` called ``name``, or ``plugin:name``.

    Args:
        name: Bare or qualified; case does not matter, nor ``_`` for ``-``, in which names are written.
        kind: How errors call it: a kind of part, or ``derivative``.
        offered: Everything of that kind.
        plugins: All plugins, to name those that did not load.

    Raises:
        PartNotFound: There is none; where one that cannot be used is called so, the reason is told.
        AmbiguousPart: There are several.
    """
    written = as_written(name)
    matches = [found for found in offered if written in names_of(found)]
    if len(matches) == 1:
        return matches[0]
    what = kind.replace("_", " ")
    if matches:
        choices = ", ".join(sorted(found.qualified_name for found in matches))
        raise AmbiguousPart(
            f"{len(matches)} plugins offer {_article(what)} {name!r}", fix=f"write one of {choices}"
        )
    if reasons := _unusable(written, plugins):
        raise PartNotFound(
            f"no plugin offers {_article(what)} {name!r}: {'; '.join(reasons)}",
            fix=f"choose another {what}; see: edgelora plugins list",
        )
    raise PartNotFound(_problem(name, what, offered, plugins), fix=_fix(written, what, offered, plugins))


def as_written(name: str) -> str:
    """A bare or qualified name as names are written: in lower case, with hyphens."""
    owner, colon, bare = name.rpartition(":")
    return owner + colon + bare.lower().replace("_", "-")


def name_of(found: FoundPart | FoundDerivative) -> str:
    """The bare name."""
    return found.part.name if isinstance(found, FoundPart) else found.derivative.name


def names_of(found: FoundPart | FoundDerivative) -> tuple[str, ...]:
    """By which it is found."""
    described = found.part if isinstance(found, FoundPart) else found.derivative
    return (found.qualified_name,) if described.qualified_only else (described.name, found.qualified_name)


def _article(what: str) -> str:
    return f"{'an' if what[0] in 'aeiou' else 'a'} {what}"


def _problem(name: str, what: str, offered: Sequence[Found], plugins: Iterable[PluginStatus]) -> str:
    bare_names = {name for found in offered for name in names_of(found) if ":" not in name}
    known = ", ".join(sorted(bare_names)) or "none at all"
    lines = [f"no plugin offers {_article(what)} {name!r}; known: {known}"]
    idle = [plugin for plugin in plugins if plugin.state != "ready"]
    owner, _, bare = name.rpartition(":")
    concerned = [plugin for plugin in idle if len(idle) == 1 or plugin.name in (owner, bare)]
    for plugin in concerned:
        lines.append(f"plugin {plugin.name} ({plugin.distribution}) is {plugin.state}: {plugin.cause}")
    if others := [plugin.name for plugin in idle if plugin not in concerned]:
        lines.append(f"{len(others)} plugins did not load ({', '.join(others)}), see: edgelora plugins list")
    return "; ".join(lines)


def _unusable(name: str, plugins: Iterable[PluginStatus]) -> list[str]:
    """Why parts of this name cannot be used, such as the one a derivative of the name would be made of."""
    return [
        f"{found.kind.replace('_', ' ')} {found.qualified_name} cannot be used: {found.part.unusable}"
        for plugin in plugins
        for found in plugin.parts
        if found.part.unusable and name in (found.part.name, found.qualified_name)
    ]


def _fix(name: str, what: str, offered: Sequence[Found], plugins: Iterable[PluginStatus]) -> str:
    owner, _, bare = name.rpartition(":")
    for plugin in plugins:
        if plugin.state != "ready" and plugin.name in (owner, bare):
            return plugin.fix
    if same := _called(bare, offered):
        return f"write {' or '.join(found.qualified_name for found in same)}"
    of_plugin = [found for found in offered if found.plugin == (owner or bare)]
    if owner or not of_plugin:
        searched = of_plugin or offered
        near = difflib.get_close_matches(bare, {name_of(found) for found in searched}, n=1)
        if near:
            best = _called(near[0], searched)[0]
            return f"did you mean {best.qualified_name if owner else names_of(best)[0]!r}?"
    if of_plugin:
        return f"write one of {', '.join(found.qualified_name for found in of_plugin)}"
    return f"choose a known {what}, or install a plugin that offers it; see: edgelora plugins list"


def _called(bare: str, offered: Sequence[Found]) -> list[Found]:
    """What has this bare name: where some are found by it, these alone."""
    named = sorted((found for found in offered if name_of(found) == bare), key=lambda f: f.qualified_name)
    return [found for found in named if bare in names_of(found)] or named
