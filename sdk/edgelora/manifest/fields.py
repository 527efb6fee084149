"""The scalar types of a manifest, and the rules that every object in it shares."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from typing import Annotated, Any, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    StrictBool,
    StrictInt,
    ValidationInfo,
    model_serializer,
    model_validator,
)
from pydantic.alias_generators import to_camel

Item = TypeVar("Item")
MAX_INTEGER = 2**53 - 1
_SEMVER = (
    r"^(0|[1-9][0-9]*)\.(0|[1-9][0-9]*)\.(0|[1-9][0-9]*)"
    r"(-(0|[1-9][0-9]*|[0-9]*[A-Za-z-][0-9A-Za-z-]*)(\.(0|[1-9][0-9]*|[0-9]*[A-Za-z-][0-9A-Za-z-]*))*)?"
    r"(\+[0-9A-Za-z-]+(\.[0-9A-Za-z-]+)*)?$"
)
_TIME = r"([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9]"
_RELEASE = r"(0|[1-9][0-9]*)(\.(0|[1-9][0-9]*))*"
_SUFFIX = r"((a|b|rc)(0|[1-9][0-9]*))?(\.post(0|[1-9][0-9]*))?(\.dev(0|[1-9][0-9]*))?"
_CLAUSE = (
    rf"((>=|<=|>|<|==|!=) ?{_RELEASE}{_SUFFIX}|(==|!=) ?{_RELEASE}\.\*"
    rf"|~= ?(0|[1-9][0-9]*)(\.(0|[1-9][0-9]*))+{_SUFFIX})"
)


def decimal_text(value: float) -> str:
    """A finite float as the shortest decimal that reads back to it, without an exponent: ``"0.00002"``.

    Raises:
        ValueError: It is NaN or infinite.
    """
    if not math.isfinite(value):
        raise ValueError(f"{value} is not a finite number")
    return format(Decimal(repr(value)), "f")


def json_value(value: Any) -> Any:
    """A free-form value in the only types a manifest may hold; floats become decimal strings.

    Raises:
        ValueError: It holds a NaN, an infinity, a key that is no string, or another type.
    """
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        return decimal_text(value)
    if isinstance(value, Mapping):
        wrong = [key for key in value if not isinstance(key, str)]
        if wrong:
            raise ValueError(f"the key {wrong[0]!r} is not a string")
        return {key: json_value(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [json_value(item) for item in value]
    raise ValueError(f"{value!r} is a {type(value).__name__}, which has no form in JSON")


def _decimal_of_float(value: Any) -> Any:
    return decimal_text(value) if isinstance(value, float) else value


def _is_moment(value: str) -> str:
    datetime.fromisoformat(value)
    return value


def _are_distinct(values: tuple[str, ...]) -> tuple[str, ...]:
    if len(set(values)) != len(values):
        raise ValueError("an entry is listed twice")
    return values


Array = Annotated[tuple[Item, ...], Field(fail_fast=True)]
"""One wrong entry is enough: a million of them would be told one by one, in gigabytes."""
Text = Annotated[str, Field(min_length=1)]
Flag = StrictBool
Count = Annotated[StrictInt, Field(ge=0, le=MAX_INTEGER)]
Positive = Annotated[StrictInt, Field(ge=1, le=MAX_INTEGER)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
"""64 lower-case hexadecimal digits, as in a file entry."""
Digest = Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$")]
"""``sha256:`` and 64 lower-case hexadecimal digits."""
DecimalText = Annotated[
    str, Field(pattern=r"^-?(0|[1-9][0-9]*)(\.[0-9]+)?$"), BeforeValidator(_decimal_of_float)
]
"""A number as text. A float given in Python is converted."""
Moment = Annotated[
    str,
    Field(pattern=rf"^[0-9]{{4}}-[0-9]{{2}}-[0-9]{{2}}T{_TIME}(\.[0-9]{{1,6}})?Z$"),
    AfterValidator(_is_moment),
]
"""RFC 3339 in UTC, ending in ``Z``."""
SemanticVersion = Annotated[str, Field(pattern=_SEMVER, max_length=128)]
VersionRange = Annotated[str, Field(pattern=rf"^{_CLAUSE}(, ?{_CLAUSE})*$", max_length=256)]
"""PEP 440 in its normal form, such as ``>=1,<2``."""
Word = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:/-]{0,127}$")]
"""A name in a list of known words: a part, a derivative, a feature, a role."""
Words = Annotated[Array[Word], AfterValidator(_are_distinct)]
Language = Annotated[str, Field(pattern=r"^[A-Za-z]{2,8}(-[A-Za-z0-9]{1,8})*$")]
"""A BCP 47 tag."""
Free = Annotated[dict[str, Any], BeforeValidator(json_value)]
"""An object whose members are not the specification's to name."""


class Wire(BaseModel):
    """An object of a manifest: snake_case in Python, camelCase in the file, unknown members kept."""

    model_config = ConfigDict(
        frozen=True,
        extra="allow",
        alias_generator=to_camel,
        validate_by_name=True,
        validate_by_alias=True,
    )

    @model_validator(mode="before")
    @classmethod
    def _refuse_null(cls, given: Any, info: ValidationInfo) -> Any:
        if info.context == "file" and isinstance(given, dict):
            declared = {field.alias for field in cls.model_fields.values()}
            empty = sorted(name for name, value in given.items() if value is None and name in declared)
            if empty:
                raise ValueError(f"{empty[0]} is null, where an optional member is left out")
        return given

    @model_serializer(mode="wrap")
    def _leave_out_absent(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        document: dict[str, Any] = serialize(self)
        for name, field in type(self).model_fields.items():
            if getattr(self, name) is None:
                document.pop(field.alias or name, None)
        return document
