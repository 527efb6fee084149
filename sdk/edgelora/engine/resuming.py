"""What may differ between the start of a run and its resumption."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from edgelora.errors import ResumeMismatch
from edgelora.manifest import Base
from edgelora.recipe import TrainSettings

FREE_TO_CHANGE = {
    ("recipe", "out"),
    ("recipe", "about"),
    # What they are counts, not where they lie: the plan has their digests.
    ("recipe", "past"),
    # Where the base lies was chosen at the start, and is taken over from the checkpoint.
    ("recipe", "memory_budget"),
    ("recipe", "train", "save_every"),
    ("recipe", "train", "keep_checkpoints"),
    ("recipe", "train", "threads"),
    ("recipe", "train", "tensorboard"),
}
"""Keys of a plan that do not steer training, so a resumed run may differ in them."""
_ORIGIN = ("plugin", "distribution", "version")
"""Members of parts and derivatives in a plan that no recipe has."""


def compare_plans(stored: dict[str, Any], current: dict[str, Any]) -> None:
    """Refuse to resume with another plan than the run was started with.

    A setting that the stored plan lacks is newer than the run, which went by what is now its default.

    Raises:
        ResumeMismatch: A key differs that steers training; the message has both values, as a recipe has them.
    """
    if stored.get("past", []) != current.get("past", []):
        raise _other_past(
            *(", ".join(plan["recipe"].get("past", [])) or "none" for plan in (stored, current))
        )
    before, now = dict(_flat(stored)), dict(_flat(current))
    for key, value in _flat({"recipe": {"train": TrainSettings().model_dump(mode="json")}}):
        before.setdefault(key, value)
    changed = [
        key
        for key in sorted(before.keys() | now.keys(), key=lambda key: (key[-1] in _ORIGIN, key))
        if before.get(key) != now.get(key) and not any(key[: len(free)] == free for free in FREE_TO_CHANGE)
    ]
    if changed:
        # What was resolved comes first: of an option that was left out it has the default.
        told = [changed[0], *(key for key in changed if key[0] == "recipe")]
        first, *others = dict.fromkeys(map(_in_recipe, told))
        was, is_ = (_text(values.get(changed[0])) for values in (before, now))
        also = f"; {', '.join(others)} changed too" if others else ""
        raise ResumeMismatch(
            f"the run was started with {first}: {was}, and now it is {is_}{also}",
            fix=f"go back to {first}: {was}, or start again into another 'out'",
        )


def _other_past(was: str, is_: str) -> ResumeMismatch:
    told = f"and now it is {is_}" if is_ != was else "and another adapter is there now"
    return ResumeMismatch(
        f"the run was started with past: {was}, {told}",
        fix="restore what the run went on from, or start again into another 'out'",
    )


def digests_of(base: Base) -> dict[str, str | None]:
    """What a checkpoint keeps of the base."""
    return {
        "tensors": base.tensors_digest,
        "configuration": base.config_digest,
        "tokenizer": base.tokenizer_digest,
    }


def compare_bases(stored: dict[str, str | None], base: Base, place: Path) -> None:
    """Refuse to resume on another base.

    Raises:
        ResumeMismatch: A digest differs.
    """
    if stored != digests_of(base):
        raise ResumeMismatch(
            f"the base in {place} is not the one the run was started on",
            fix="restore its files, or start again into another 'out'",
        )


def _flat(value: Any, path: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], Any]]:
    if isinstance(value, list):
        value = {str(index): item for index, item in enumerate(value)}
    if not isinstance(value, dict):
        return [(path, value)]
    return [entry for key, item in value.items() for entry in _flat(item, (*path, key))]


def _in_recipe(key: tuple[str, ...]) -> str:
    """A key of a plan as a recipe has it: ``parts.adapter.options.rank`` is ``adapter.rank``."""
    section, *rest = key
    if section in ("parts", "recipe"):
        key = tuple(rest)
    if key[-1] in _ORIGIN:
        return f"{key[-1]} of {'.'.join(key[:-1])}"
    # Options stand beside the name in a recipe, and the name may stand alone.
    return ".".join(each for each in key if each not in ("options", "name"))


def _text(value: Any) -> str:
    if value is None:
        return "unset"
    return value if isinstance(value, str) else json.dumps(value)
