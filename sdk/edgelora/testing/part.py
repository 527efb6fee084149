"""What holds for every part, whatever its kind."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

from edgelora.capabilities import ABILITIES
from edgelora.errors import OptionsError
from edgelora.parts import KINDS, Kind
from edgelora.plan.options import options_model
from edgelora.plan.part import PlannedPart, plan_part
from edgelora.registry.status import FoundPart
from edgelora.testing.check import require, skip
from edgelora.testing.plugin import PluginConformance, is_one_line
from edgelora.testing.setting import setting, settings_of

WHERE_OPTIONS_ARE_SET = (
    'give it the options to be checked with: Part(kit={"options": ...}), options = ... in its test, or '
    "edgelora plugins check --set"
)
UNKNOWN_OPTION = "surely_no_option_of_any_part"


class PartConformance(PluginConformance):
    """A part of an installed plugin; its plugin is checked with it.

    Attributes:
        kind: Of the part.
        part: Its name, or ``plugin:name`` where several plugins use one name.
        options: Options to check it with, besides its defaults: required ones, or smaller ones.
    """

    kind: ClassVar[Kind]
    part: ClassVar[str] = ""
    options: ClassVar[Mapping[str, Any]] = setting({})

    def found(self) -> FoundPart:
        """The part and where it comes from."""
        require(self.part, f'write part = "name" in {type(self).__name__}')
        return self.keep("part", lambda: self.registry().part(self.kind, self.part))

    def plugin_name(self) -> str:
        """The plugin that offers the part."""
        return self.plugin or self.found().plugin

    def planned(self) -> PlannedPart:
        """The part with the options it is checked with."""
        try:
            return plan_part(self.found(), self.options)
        except OptionsError as error:
            raise AssertionError(f"{error.problem} ({error.fix}); {WHERE_OPTIONS_ARE_SET}") from error

    def objects(self) -> Iterable[Any]:
        """What may have the part's abilities; overridden by each kind that makes more than one object."""
        return [self.planned().build()]

    def test_it_can_be_built(self) -> None:
        """Its options are a model, its target is there, takes them and meets the protocol of its kind."""
        for made in self.objects():
            require(made is not None, f"{self.found().part.target} made None; return the object")

    def test_its_summary_is_one_line(self) -> None:
        """It stands in ``edgelora plugins list``."""
        summary = self.found().part.summary
        require(is_one_line(summary), f"summary is {summary!r}; write Part(summary=...) of one line")

    def test_its_settings_of_the_kit_are_known(self) -> None:
        """``Part.kit`` names attributes of the kit's class, and options of the part."""
        kit, known = self.found().part.kit, settings_of(type(self))
        unknown = [name for name in kit if name not in known]
        require(not unknown, f"kit names {', '.join(unknown)}, no settings; there are {', '.join(known)}")
        fields = options_model(self.found()).model_fields
        strange = [name for name in kit.get("options", {}) if name not in fields]
        require(
            not strange,
            f"kit names {', '.join(strange)}, no options; there are {', '.join(fields) or 'none'}",
        )

    def test_every_option_is_documented(self) -> None:
        """Each field has a description."""
        fields = options_model(self.found()).model_fields
        bare = [name for name, field in fields.items() if not (field.description or "").strip()]
        require(
            not bare,
            f"nothing describes {', '.join(bare)}; write {bare[0] if bare else 'x'}: ... = "
            'Field(..., description="...")',
        )

    def test_unknown_options_are_refused(self) -> None:
        """A typing mistake in a recipe must not be ignored, in nested options neither."""
        model = options_model(self.found())
        nested = model.model_json_schema().get("$defs", {})
        open_models = [
            name
            for name, schema in nested.items()
            if schema.get("type") == "object" and schema.get("additionalProperties", True) is True
        ]
        require(
            not open_models,
            f"{', '.join(open_models)} inside {model.__name__} lets unknown keys pass; derive it from "
            "edgelora.Options too",
        )
        try:
            plan_part(self.found(), {**self.options, UNKNOWN_OPTION: 1})
        except OptionsError:
            return
        require(False, f"{model.__name__} takes an unknown option; derive it from edgelora.Options")

    def test_its_options_survive_a_manifest(self) -> None:
        """Written as JSON and validated again they are equal: manifests and checkpoints hold them so."""
        options = self.planned().options
        again = type(options).model_validate_json(options.model_dump_json())
        require(
            again == options,
            f"{options!r} comes back from JSON as {again!r}; use field types that JSON can hold",
        )

    def test_its_abilities_are_those_of_its_objects(self) -> None:
        """``Part.abilities`` names exactly the capability protocols that the objects meet."""
        declared = set(self.found().part.abilities)
        objects = list(self.objects())
        actual = {name for name, kind in ABILITIES.items() if any(isinstance(each, kind) for each in objects)}
        require(
            declared == actual,
            f"abilities are declared as {sorted(declared)}, and the objects made are {sorted(actual)}: "
            f"write abilities={tuple(sorted(actual))}, or change the objects",
        )

    def test_what_it_refuses_and_needs_has_a_reason(self) -> None:
        """Both are shown to a user whose recipe cannot work."""
        part = self.found().part
        if not part.refuses and not part.needs:
            skip("it refuses and needs nothing")
        unknown = [name for name in part.needs if name not in ABILITIES]
        require(not unknown, f"needs names {unknown}, which are no abilities; use {', '.join(ABILITIES)}")
        kinds = [name for name in part.refuses if name.partition(":")[0] not in (*KINDS, *ABILITIES)]
        require(not kinds, f"refuses names {kinds}; write them as 'kind:name', or an ability")
        silent = [name for name, why in {**part.refuses, **part.needs}.items() if not is_one_line(why)]
        require(not silent, f"write the reason for {', '.join(silent)}, in one line")
