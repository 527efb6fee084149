"""Parts as documents state them: manifests, checkpoints and the records of prepared bases."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from edgelora.errors import PartNotFound, PluginMissing
from edgelora.parts import Kind
from edgelora.plan.part import PlannedPart, plan_part
from edgelora.registry import Registry
from edgelora.registry.status import FoundDerivative, FoundPart

Found = TypeVar("Found", FoundPart, FoundDerivative)


def part_from_document(kind: Kind, document: Mapping[str, Any], registry: Registry) -> PlannedPart:
    """Rebuild one part from `PlannedPart.as_document`, as manifests and checkpoints hold it.

    Raises:
        PluginMissing: Its plugin is not installed or does not load; the message names the distribution.
        OptionsError: The installed version of the part refuses the options.
    """
    found = installed(kind, document, lambda name: registry.part(kind, name))
    return plan_part(found, document["options"])


def installed(what: str, document: Mapping[str, Any], look_up: Callable[[str], Found]) -> Found:
    """What is installed under the name a document states.

    Raises:
        PluginMissing: Nothing is; the message names the distribution.
    """
    name = f"{document['plugin']}:{document['name']}"
    try:
        return look_up(name)
    except PartNotFound as error:
        distribution, version = document["distribution"], document["version"]
        raise PluginMissing(
            f"{what.replace('_', ' ')} {name!r} of {distribution} {version} is needed: {error.problem}",
            fix=f"if you trust it, install it: pip install '{distribution}=={version}'",
        ) from error
