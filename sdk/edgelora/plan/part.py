"""A part chosen for a run, with validated options; torch is imported only when it is built."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError
from pydantic.errors import PydanticUserError

from edgelora import protocols
from edgelora.capabilities import AdaptsModel
from edgelora.errors import OptionsError, PluginBug
from edgelora.options import Options
from edgelora.parts import Kind, Part
from edgelora.plan.options import options_model
from edgelora.registry.status import FoundPart
from edgelora.targets import import_target, missing_module

_PROTOCOLS: dict[Kind, type] = {
    "quantizer": protocols.Quantizer,
    "adapter": protocols.Adapter,
    "rank_scheduler": protocols.RankScheduler,
    "loss_combiner": protocols.LossCombiner,
    "evaluator": protocols.Evaluator,
}
_ADAPTER_OPTIONS = ("target_modules",)


@dataclass(frozen=True, slots=True)
class PlannedPart:
    """One part of a plan: where it comes from and the options it will be built with."""

    kind: Kind
    name: str
    plugin: str
    distribution: str
    version: str
    target: str
    options: Options
    part: Part

    def build(self) -> Any:
        """Import the target, call it with the options, and return the object, which meets its protocol.

        Raises:
            DependencyMissing: The target needs a package that is not installed.
            OptionsError: The target refuses the values of its options.
            PluginBug: The target is not there, cannot be called with options, or lacks methods.
        """
        found = self._found
        factory = import_target(self.target, found)
        try:
            built = factory(self.options)
        except ModuleNotFoundError as error:
            raise missing_module(error, self.target, found) from error
        except ValueError as error:
            raise OptionsError(
                f"{found.described} refuses its options: {error}", fix="change them"
            ) from error
        except TypeError as error:
            raise PluginBug(
                f"{found.described}: {self.target} cannot be called with its options: {error}",
                fix=found.remedy,
            ) from error
        self._check_protocol(built)
        return built

    def as_document(self) -> dict[str, Any]:
        """JSON values from which `edgelora.plan.part_from_document` makes an equal part."""
        return {
            "name": self.name,
            "plugin": self.plugin,
            "distribution": self.distribution,
            "version": self.version,
            "options": self.options.model_dump(mode="json"),
        }

    @property
    def _found(self) -> FoundPart:
        return FoundPart(self.kind, self.part, self.plugin, self.distribution, self.version)

    def _check_protocol(self, built: Any) -> None:
        # Prompt tuning and its like act on the model as a whole and wrap nothing.
        if self.kind == "adapter" and isinstance(built, AdaptsModel):
            return
        protocol = _PROTOCOLS[self.kind]
        missing = [name for name in _methods(protocol) if not callable(getattr(built, name, None))]
        if missing:
            raise PluginBug(
                f"{self._found.described}: {self.target} made a {type(built).__name__} without "
                f"{', '.join(missing)}, which edgelora.protocols.{protocol.__name__} asks for",
                fix=self._found.remedy,
            )


def plan_part(found: FoundPart, options: Mapping[str, Any]) -> PlannedPart:
    """Validate the options of a part that was found.

    Raises:
        OptionsError: An option is unknown, missing or has a wrong value.
        PluginBug: The part's options model is not there or cannot be used.
        DependencyMissing: The module of its options needs a package that is not installed.
    """
    where = found.described
    model = options_model(found)
    if found.kind == "adapter" and "AdaptsModel" not in found.part.abilities:
        missing = [name for name in _ADAPTER_OPTIONS if name not in model.model_fields]
        if missing:
            raise PluginBug(
                f"{where}: its options lack {', '.join(missing)}, which every adapter that wraps sites has",
                fix=found.remedy,
            )
    try:
        validated = model.model_validate(dict(options))
    except ValidationError as error:
        problem, fix = _explain(error, model, found.qualified_name)
        raise OptionsError(f"{where}: {problem}", fix=fix) from error
    except PydanticUserError as error:
        raise PluginBug(
            f"{where}: its options model {model.__name__} is unfinished: {error.message}",
            fix=found.remedy,
        ) from error
    return PlannedPart(
        found.kind,
        found.part.name,
        found.plugin,
        found.distribution,
        found.version,
        found.part.target,
        validated,
        found.part,
    )


def _explain(error: ValidationError, model: type[Options], name: str) -> tuple[str, str]:
    """Problem and fix of the first wrong option, with what is allowed there."""
    errors = error.errors()
    first = errors[0]
    option = str(first["loc"][0]) if first["loc"] else ""
    known = ", ".join(model.model_fields) or "none"
    if first["type"] == "extra_forbidden" and len(first["loc"]) == 1:
        near = difflib.get_close_matches(option, model.model_fields, n=1)
        return f"there is no option {option!r}", (
            f"did you mean {near[0]!r}?" if near else f"its options: {known}"
        )
    if first["type"] == "missing" and len(first["loc"]) == 1:
        return f"option {option!r} is required", f"write it: {{name: {name}, {option}: ...}}"
    # A union reports one error per alternative; all of them belong to the same option.
    same = [each for each in errors if each["loc"] and str(each["loc"][0]) == option]
    reasons = dict.fromkeys(each["msg"][:1].lower() + each["msg"][1:] for each in same)
    given = first["input"]
    allowed = [value for each in same if each["type"] == "literal_error" for value in _expected(each)]
    near = difflib.get_close_matches(str(given), allowed, n=1)
    described = model.model_fields[option].description if option in model.model_fields else None
    is_listed = isinstance(given, str) and any(each["type"] == "list_type" for each in same)
    otherwise = f"write {option}: [{given}]" if is_listed else f"change {option or 'the options'}"
    hint = f"did you mean {near[0]!r}?" if near else otherwise
    return (
        f"{option or 'the options'} is {given!r}: {'; or '.join(reasons)}",
        hint + (f" ({described})" if described else ""),
    )


def _expected(error: Any) -> list[str]:
    text = str(error.get("ctx", {}).get("expected", ""))
    return [value.strip().strip("'") for value in text.replace(" or ", ", ").split(",") if value.strip()]


def _methods(protocol: type) -> Iterable[str]:
    return [
        name
        for name, member in vars(protocol).items()
        if callable(member) and (name == "__call__" or not name.startswith("_"))
    ]
