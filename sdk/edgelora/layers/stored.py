"""Tensors that a layer is rebuilt from, held against what its quantizer keeps."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from edgelora.errors import ModelError

Shapes = Mapping[str, tuple[tuple[int, ...], torch.dtype]]
"""Shapes and dtypes by name."""


def require_shapes(tensors: Mapping[str, Tensor], expected: Shapes, name: str) -> None:
    """Refuse other tensors than a layer is made of, before anything reads past the end of one.

    Those on the meta device pass: they have no memory to read past, and an estimate rounds their shapes.

    Args:
        tensors: Of the layer; ``bias`` is not looked at.
        expected: What they must be.
        name: Of the linear in the model.

    Raises:
        ModelError: One is missing, left over, or of another shape or dtype.
    """
    require_names(tensors, expected, name)
    for each, (shape, dtype) in expected.items():
        found = tensors[each]
        if not found.is_meta and (tuple(found.shape) != shape or found.dtype != dtype):
            raise unlike(
                f"{name}.{each} is {_words(tuple(found.shape), found.dtype)}, not {_words(shape, dtype)}"
            )


def require_names(tensors: Mapping[str, Tensor], expected: Shapes, name: str) -> None:
    """Refuse tensors of other names; see `require_shapes`."""
    if missing := sorted(expected.keys() - tensors.keys()):
        raise unlike(f"it holds no tensor {name}.{missing[0]}")
    if more := sorted(tensors.keys() - expected.keys() - {"bias"}):
        raise unlike(f"it holds the tensor {name}.{more[0]}")


def unlike(problem: str) -> ModelError:
    """The error for a layer that is stored otherwise than its quantizer keeps it."""
    return ModelError(
        f"the base is not stored as its quantizer keeps it: {problem}",
        fix="prepare the base again: edgelora bases prepare MODEL --quantizer NAME --out FOLDER --overwrite",
    )


def _words(shape: tuple[int, ...], dtype: torch.dtype) -> str:
    return f"{list(shape)} {str(dtype).removeprefix('torch.')}"
