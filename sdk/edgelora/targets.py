"""Importing what a part names as ``"module:attribute"``, and saying whose fault it is when that fails."""

from __future__ import annotations

import difflib
import importlib
from typing import Any

from edgelora.errors import DependencyMissing, EdgeloraError, PluginBug
from edgelora.raised import described_exception
from edgelora.registry.status import FoundPart


def import_target(target: str, found: FoundPart) -> Any:
    """The object a part names.

    Args:
        target: ``"module:attribute"``, the part's own or that of its options.
        found: The part, to be named in errors.

    Raises:
        DependencyMissing: Its module needs a package that is not installed.
        PluginBug: There is no such module or attribute, or the module fails while it is imported.
    """
    module_name, _, attributes = target.partition(":")
    try:
        owner: Any = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise missing_module(error, target, found) from error
    # A plugin is a stranger's code: whatever its module raises is a bug of that plugin, to be named as such.
    except Exception as error:
        problem = f"{found.described}: importing {module_name}: {described_exception(error)}"
        raise PluginBug(problem, fix=found.remedy) from error
    for attribute in attributes.split("."):
        if not hasattr(owner, attribute):
            near = difflib.get_close_matches(attribute, _public_names(owner), n=1)
            hint = f", but {near[0]}" if near else ""
            raise PluginBug(
                f"{found.described}: there is no {attribute} in {module_name}{hint}", fix=found.remedy
            )
        owner = getattr(owner, attribute)
    return owner


def missing_module(error: ModuleNotFoundError, target: str, found: FoundPart) -> EdgeloraError:
    """What to raise when importing or calling a target did not find a module: the part's own, or another."""
    module_name = target.partition(":")[0]
    missing = error.name or str(error)
    if f"{module_name}.".startswith(f"{missing}."):
        return PluginBug(f"{found.described}: there is no module {missing}", fix=found.remedy)
    return DependencyMissing(
        f"{found.described} needs {missing}, which is not installed",
        fix="pip install 'edgelora[train]'"
        if found.distribution == "edgelora"
        else f"install {missing}, or see what extras {found.distribution} has",
    )


def _public_names(owner: object) -> list[str]:
    return [name for name in dir(owner) if not name.startswith("_")]
