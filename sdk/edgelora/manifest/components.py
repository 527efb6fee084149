"""What an adapter is made of: components, the parts that rebuild them, and how they are composed."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self, get_args

from pydantic import Field, ValidationError, field_validator, model_validator

from edgelora.manifest.fields import (
    Array,
    DecimalText,
    Digest,
    Flag,
    Free,
    Positive,
    Text,
    VersionRange,
    Wire,
    Word,
)
from edgelora.manifest.paths import check_path

PartKind = Literal["quantizer", "adapter", "rank_scheduler", "loss_combiner"]
Dtype = Literal[
    "BOOL",
    "U8",
    "I8",
    "I16",
    "U16",
    "I32",
    "U32",
    "I64",
    "U64",
    "F8_E4M3",
    "F8_E5M2",
    "F16",
    "BF16",
    "F32",
    "F64",
]
ComponentId = Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9._-]{0,62}[a-z0-9])?$")]
MAX_COMPOSITION_DEPTH = 8


class PluginRef(Wire):
    """A plugin, and the distribution that brings it."""

    name: Word
    distribution: Word
    version: VersionRange | None = None
    entry_point: Text | None = None
    wheel_digest: Digest | None = None


class DerivativeRef(Wire):
    """The published method a component was trained with."""

    name: Word
    paper: Text | None = None
    plugin: PluginRef | None = None


class PartRef(Wire):
    """A part with the options it was built with."""

    name: Word
    plugin: Word
    distribution: Word
    version: Text
    """Of the distribution, at training time."""
    options: Free = Field(default_factory=dict)


class ComponentConfig(Wire):
    """What ``config`` may say; the shape of the members that have a meaning of their own."""

    r: Positive | None = None
    alpha: Annotated[Positive | DecimalText, Field(union_mode="left_to_right")] | None = None
    rank_pattern: dict[Text, Annotated[int, Field(strict=True, ge=0)]] | None = None
    alpha_pattern: dict[Text, Annotated[Positive | DecimalText, Field(union_mode="left_to_right")]] | None = (
        None
    )
    target_modules: Array[Text] | None = None
    modules_to_save: Array[Text] | None = None
    bias: Text | None = None
    use_dora: Flag | None = None
    use_rslora: Flag | None = None
    task_names: Array[Word] | None = None
    nested: Flag | None = None
    peft_settings: Free | None = None
    past_weights: Array[Digest] | None = None
    past_ranks: dict[Text, Array[Positive]] | None = None


def _check_config(config: dict[str, Any]) -> None:
    try:
        ComponentConfig.model_validate(config, context="file", by_alias=True, by_name=False)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(str(step) for step in ("config", *first["loc"]))
        raise ValueError(f"{place}: {first['msg']}") from error


class Component(Wire):
    """One trained set of adapter layers."""

    id: ComponentId
    derivative: DerivativeRef
    parts: dict[PartKind, PartRef]
    """The adapter part, and every other part that is needed to rebuild the layers."""
    config: Free = Field(default_factory=dict)
    """``r``, ``alpha``, ``rankPattern``, ``alphaPattern``, ``targetModules`` (site names), …"""
    files: Annotated[Array[Text], Field(min_length=1)]
    dtype: Dtype
    scale: DecimalText | None = None

    @field_validator("parts", mode="before")
    @classmethod
    def _are_of_known_kinds(cls, parts: Any) -> Any:
        # Before each of them is looked at: there may be a hundred thousand.
        unknown = sorted(set(parts) - set(get_args(PartKind))) if isinstance(parts, dict) else []
        if unknown:
            raise ValueError(f"{unknown[0][:80]!a} is no kind of part")
        return parts

    @model_validator(mode="after")
    def _is_complete(self) -> Self:
        if "adapter" not in self.parts:
            raise ValueError(f"component {self.id!r} names no adapter part")
        if len(set(self.files)) != len(self.files):
            raise ValueError(f"component {self.id!r} lists a file twice")
        for path in self.files:
            check_path(path)
        _check_config(self.config)
        return self


class ExternalInput(Wire):
    """An adapter in another directory, pinned by the digest of its manifest."""

    reference: Text
    manifest_digest: Digest


class CompositionInput(Wire):
    """One input of a composition: exactly one of a component, another adapter, or a composition."""

    component: ComponentId | None = None
    external: ExternalInput | None = None
    composition: Composition | None = None
    weight: DecimalText | None = None

    @model_validator(mode="after")
    def _is_one_thing(self) -> Self:
        given = [self.component, self.external, self.composition]
        if sum(item is not None for item in given) != 1:
            raise ValueError("an input names exactly one of component, external, composition")
        return self


class Composition(Wire):
    """How several components act together. Every ``op`` but ``single`` must be in ``requires``."""

    op: Literal["single", "sum", "concat", "switch", "route"]
    inputs: Annotated[Array[CompositionInput], Field(min_length=1)]

    def operations(self) -> set[str]:
        """Every ``op`` of the tree."""
        nested = [item.composition for item in self.inputs if item.composition]
        return {self.op}.union(*(inner.operations() for inner in nested))

    def component_ids(self) -> set[str]:
        """Every component named in the tree."""
        named = {item.component for item in self.inputs if item.component}
        nested = [item.composition for item in self.inputs if item.composition]
        return named.union(*(inner.component_ids() for inner in nested))

    def depth(self) -> int:
        """Levels of compositions inside each other, from 1."""
        return 1 + max((item.composition.depth() for item in self.inputs if item.composition), default=0)


CompositionInput.model_rebuild()
