"""The model that validates a part's options: imported when a plan is made, not when plugins are listed."""

from __future__ import annotations

from edgelora.errors import PluginBug
from edgelora.options import Options
from edgelora.registry.status import FoundPart
from edgelora.targets import import_target


def options_model(found: FoundPart) -> type[Options]:
    """The options model of a part, imported where the part only names it.

    Raises:
        DependencyMissing: Its module needs a package that is not installed.
        PluginBug: There is no such class, or it is not a model that options can be validated by.
    """
    named = found.part.options
    model: type[Options] = import_target(named, found) if isinstance(named, str) else named
    defect = options_defect(model)
    if defect:
        cause, fix = defect
        raise PluginBug(f"{found.described}: {cause}", fix=f"{found.remedy}: {fix}")
    return model


def options_defect(model: object) -> tuple[str, str] | None:
    """Why something cannot be the options of a part, and what its author can do; None when it can."""
    if not isinstance(model, type) or not issubclass(model, Options):
        return (
            f"options is {model!r}, not a subclass of Options",
            "derive the options from edgelora.Options, and name or pass the class",
        )
    if model.model_config.get("extra") != "forbid":
        return (
            f"{model.__name__} lets unknown options pass",
            "remove extra= from its model_config: edgelora.Options forbids them",
        )
    if "name" in model.model_fields:
        return (
            "an option cannot be called 'name', which is the part's own key in a recipe",
            "rename the option",
        )
    if hidden := sorted(model.model_fields.keys() & vars(Options).keys()):
        return f"an option cannot be called {hidden[0]!r}, which is a method of Options", "rename the option"
    return None
