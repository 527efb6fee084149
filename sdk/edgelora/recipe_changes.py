"""``--set key.sub=value``: one change to a recipe before it is validated."""

from __future__ import annotations

from typing import Any

import yaml

from edgelora.errors import RecipeError
from edgelora.parts import KINDS

_PART_LIST = "evaluators"


def apply_change(document: dict[str, Any], change: str) -> None:
    """Assign one value, in YAML, into nested dictionaries and lists; missing dictionaries are made.

    A part given by its name alone becomes ``{name: ...}``, so that an option can be added to it.

    Raises:
        RecipeError: The change is not of the form ``key.sub=value``, or there is nothing at its key.
    """
    key, equals, value = change.partition("=")
    if not equals or not key.strip():
        raise RecipeError(f"--set {change!r} has no '='", fix="write it as --set train.seed=1")
    try:
        parsed = yaml.safe_load(value)
    # ValueError: PyYAML reads 2024-13-45 as a date and fails.
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise RecipeError(f"--set {change!r}: {value!r} is not YAML", fix="quote the value") from error
    if isinstance(parsed, dict) and value.rstrip().endswith(":"):
        parsed = value.strip()  # "peft:" is a name that is not whole, and no dictionary
    *parents, last = key.strip().split(".")
    here: Any = document
    for depth, parent in enumerate(parents):
        place = _index(here, parent, change) if isinstance(here, list) else parent
        holds_part = parents[:depth] == [_PART_LIST] or (depth == 0 and parent in KINDS)
        here = _descend(here, place, change, holds_part=holds_part)
    here[_index(here, last, change) if isinstance(here, list) else last] = parsed


def _descend(here: Any, place: Any, change: str, *, holds_part: bool) -> Any:
    child = here[place] if isinstance(here, list) else here.get(place)
    if child is None:
        child = here[place] = {}
    elif isinstance(child, str) and holds_part:
        child = here[place] = {"name": child}
    if not isinstance(child, dict | list):
        raise RecipeError(
            f"--set {change!r}: {place!r} is a plain value, it has no keys", fix=f"set {place} itself"
        )
    return child


def _index(here: list[Any], key: str, change: str) -> int:
    if not key.isdecimal() or int(key) >= len(here):
        raise RecipeError(
            f"--set {change!r}: {key!r} is not an index of a list of {len(here)}",
            fix="count from 0, as in data.0.path=train.jsonl",
        )
    return int(key)
