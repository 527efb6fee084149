"""Write the fields of PEFT's configurations into ``fields.json`` of the plugin ``peft``; a test compares."""

from __future__ import annotations

import dataclasses
import enum
import json
import types
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

FIELDS = Path(__file__).resolve().parent.parent / "plugins" / "edgelora_plugins" / "peft" / "fields.json"
OURS = {
    "auto_mapping", "base_model_name_or_path", "inference_mode", "peft_type", "peft_version", "revision",
    "runtime_config", "task_type",
}  # fmt: skip
"""Fields that are not the user's to choose."""


def fields() -> dict[str, Any]:
    """Per type the fields of its configuration, with their types and defaults."""
    found = {kind.value: of_config(config) for kind, config in PEFT_TYPE_TO_CONFIG_MAPPING.items()}
    return dict(sorted(found.items()))


def of_config(config: type) -> dict[str, Any]:
    """The fields of one configuration."""
    hints = get_type_hints(config)
    return {
        field.name: _described(hints[field.name], _default(field))
        for field in dataclasses.fields(config)
        if field.init and field.name not in OURS
    }


def _default(field: Any) -> Any:
    if field.default_factory is not dataclasses.MISSING:
        default = field.default_factory()
        return {} if dataclasses.is_dataclass(default) else default
    if field.default is dataclasses.MISSING:
        return None
    return field.default.value if isinstance(field.default, enum.Enum) else field.default


def _described(hint: Any, default: Any) -> dict[str, Any]:
    names: set[str] = set()
    values: list[Any] = []
    for each in _alternatives(hint):
        if get_origin(each) is Literal:
            values += get_args(each)
        elif isinstance(each, type) and issubclass(each, enum.Enum):
            values += [member.value for member in each]
        else:
            names.add(_name(each))
    if values:  # beside an enumeration, str is how it is spelled
        names.discard("str")
    if default is None:
        names.add("null")
    # Sorted, for typing takes two unions of the same types in another order for one.
    described: dict[str, Any] = {"default": default}
    if names:
        described["types"] = sorted(names)
    if values:
        described["values"] = sorted(set(values), key=str)
    return described


def _alternatives(hint: Any) -> list[Any]:
    if get_origin(hint) in (Union, types.UnionType):
        return [alternative for each in get_args(hint) for alternative in _alternatives(each)]
    return [hint]


def _name(hint: Any) -> str:
    if hint is type(None):
        return "null"
    if get_origin(hint) is list:
        (item,) = get_args(hint)
        return f"list[{item.__name__}]" if item in (int, str) else "list"
    if get_origin(hint) is dict or hint is dict or dataclasses.is_dataclass(hint):
        return "dict"
    return str(hint.__name__)


if __name__ == "__main__":
    FIELDS.write_text(json.dumps(fields(), indent=1) + "\n", encoding="utf-8")
