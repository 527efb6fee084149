"""What may differ between the start of a run and its resumption."""

from __future__ import annotations

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


def compare_plans(stored: dict[str, Any], current: dict[str, Any]) -> None:
    """Refuse to resume with another plan than the run was started with.

    A setting that the stored plan lacks is newer than the run, which went by what is now its default.

    Raises:
        ResumeMismatch: A key differs that steers training; the message has both values.
    """
    before, now = dict(_flat(stored)), dict(_flat(current))
    for key, value in _flat({"recipe": {"train": TrainSettings().model_dump(mode="json")}}):
        before.setdefault(key, value)
    for key in sorted(before.keys() | now.keys()):
        if before.get(key) != now.get(key) and not any(key[: len(free)] == free for free in FREE_TO_CHANGE):
            name = ".".join(key)
            raise ResumeMismatch(
                f"the run was started with {name} = {before.get(key)!r}, and now it is {now.get(key)!r}",
                fix="restore that value, or start again into another 'out'",
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
    if not isinstance(value, dict):
        return [(path, value)]
    return [entry for key, item in value.items() for entry in _flat(item, (*path, key))]
