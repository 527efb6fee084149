"""The JSON Schema of a manifest, generated from the models: ``python -m edgelora.manifest.schema [FILE]``.

It says what a schema can say. spec/v1/manifest.md says the rest, and where they differ, the text is right.
"""

from __future__ import annotations

import ast
import inspect
import json
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

from edgelora.manifest.components import ComponentConfig
from edgelora.manifest.fields import Wire
from edgelora.manifest.models import Manifest

ADDRESS = "urn:edgelora:spec:v1:manifest"
_MUST_BE_WRITTEN = ("specVersion", "kind", "requires")


def manifest_schema() -> dict[str, Any]:
    """The schema, in draft 2020-12."""
    schema = Manifest.model_json_schema(by_alias=True)
    config = ComponentConfig.model_json_schema(by_alias=True)
    places = {**schema["$defs"], "Manifest": schema, "ComponentConfig": config}
    # Other documents of edgelora, such as the index of a bundle, are of the same rules.
    for model in (each for each in Wire.__subclasses__() if each.__module__.startswith("edgelora.manifest.")):
        for member, description in _descriptions(model):
            places[model.__name__]["properties"][member]["description"] = description
    schema["$defs"]["Component"]["properties"]["config"] = config
    schema["required"] = sorted({*schema["required"], *_MUST_BE_WRITTEN})
    dialect = "https://json-schema.org/draft/2020-12/schema"
    return {"$schema": dialect, "$id": ADDRESS, **_cleaned(schema), "title": "edgelora manifest 1.0"}


def schema_text() -> str:
    """The bytes of spec/v1/manifest.schema.json, as text."""
    return json.dumps(manifest_schema(), indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def main(arguments: list[str]) -> None:
    """Write the schema to the file given, or print it."""
    if arguments:
        Path(arguments[0]).write_text(schema_text(), encoding="utf-8")
    else:
        sys.stdout.write(schema_text())


def _descriptions(model: type[Wire]) -> Iterator[tuple[str, str]]:
    """The sentence under each member, read from the source: pydantic would read it at every import."""
    statements = cast(ast.ClassDef, ast.parse(inspect.getsource(model)).body[0]).body
    for statement, next_one in pairwise(statements):
        match statement, next_one:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                yield str(model.model_fields[name].alias), inspect.cleandoc(text)


def _cleaned(value: Any) -> Any:
    """Without null, which is how Python leaves a member out, and without titles made from Python names."""
    if isinstance(value, list):
        return [_cleaned(item) for item in value]
    if not isinstance(value, dict):
        return value
    value = {key: _cleaned(item) for key, item in value.items() if not _is_python_only(key, item)}
    choices = value.get("anyOf")
    if isinstance(choices, list):
        choices = [choice for choice in choices if choice != {"type": "null"}]
        if len(choices) == 1:
            return {**{key: item for key, item in value.items() if key != "anyOf"}, **choices[0]}
        value["anyOf"] = choices
    return value


def _is_python_only(key: str, item: Any) -> bool:
    return (key == "default" and item is None) or (key == "title" and isinstance(item, str))


if __name__ == "__main__":
    main(sys.argv[1:])
