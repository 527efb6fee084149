"""Bases of published shapes on disk, made by a process of their own so that the caller stays small."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from harness.arms import Arm, run_arm
from harness.shapes import SHAPES, Shape


class NoBase(RuntimeError):
    """The base cannot be made here; the text says why."""


def base_on_disk(shape: Shape, work: Path) -> Path:
    """The folder of a prepared NF4 base of this shape under ``work``: made, or found whole.

    Raises:
        NoBase: The disk has no space for it.
    """
    answer = run_arm(Arm(f"making {shape.name}", make, {"shape": shape.slug, "work": str(work.absolute())}))
    if reason := answer["result"].get("refused"):
        raise NoBase(reason)
    return Path(answer["result"]["folder"])


def make(shape: str, work: str) -> dict[str, Any]:
    from harness.random_base import NoSpace, random_base

    try:
        return {"folder": str(random_base(SHAPES[shape], Path(work)))}
    except NoSpace as error:
        return {"refused": str(error)}


def weights_of(base: Path) -> list[Path]:
    """The shards of a base."""
    return sorted(base.glob("*.safetensors"))
