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
        PartNotFound: There is none.
        AmbiguousPart: There are several.
    """
    owner, colon, bare = name.rpartition(":")
    written = owner + colon + bare.lower().replace("_", "-")
    matches = [found for found in offered if written in names_of(found)]
    if len(matches) == 1:
        return matches[0]
    what = kind.replace("_", " ")
    if matches:
        choices = ", ".join(sorted(found.qualified_name for found in matches))
        raise AmbiguousPart(
            f"{len(matches)} plugins offer {_article(what)} {name!r}", fix=f"write one of {choices}"
        )
    raise PartNotFound(_problem(name, what, offered, plugins), fix=_fix(written, what, offered, plugins))


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


def _fix(name: str, what: str, offered: Sequence[Found], plugins: Iterable[PluginStatus]) -> str:
    owner, _, bare = name.rpartition(":")
    for plugin in plugins:
        if plugin.state != "ready" and plugin.name in (owner, bare):
            return plugin.fix
    named = [found for found in offered if name_of(found) == bare]
    ordinary = [found for found in named if bare in names_of(found)]
    elsewhere = sorted(found.qualified_name for found in ordinary or named)
    if elsewhere:
        return f"write {' or '.join(elsewhere)}"
    near = difflib.get_close_matches(bare, {name_of(found) for found in offered}, n=1)
    if near:
        return f"did you mean {near[0]!r}?"
    return f"choose a known {what}, or install a plugin that offers it; see: edgelora plugins list"
