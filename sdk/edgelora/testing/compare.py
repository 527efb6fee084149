"""Comparing tensors and states."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn


def distance(found: Tensor, expected: Tensor) -> float:
    """‖found − expected‖ / ‖expected‖, Frobenius, in float64; infinite where anything is not finite."""
    found, expected = found.detach().double(), expected.detach().double()
    if not found.isfinite().all():
        return float("inf")
    return float((found - expected).norm() / expected.norm().clamp_min(1e-30))


def same_bits(one: Tensor, other: Tensor) -> bool:
    """Whether dtype, shape and every bit agree."""
    if one.dtype != other.dtype or one.shape != other.shape:
        return False
    one, other = one.detach().contiguous(), other.detach().contiguous()
    return torch.equal(one.reshape(-1).view(torch.uint8), other.reshape(-1).view(torch.uint8))


def bits_differ(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> str:
    """Names in which two states differ, the first few; empty where there are none."""
    different = [
        name
        for name in sorted(one.keys() | other.keys())
        if name not in one or name not in other or not same_bits(one[name], other[name])
    ]
    more = f" and {len(different) - 3} more" if len(different) > 3 else ""
    return ", ".join(different[:3]) + more


def frozen_copy(linear: nn.Linear) -> nn.Linear:
    """A copy that shares no memory and does not learn."""
    return copy.deepcopy(linear).requires_grad_(False)


def impurity(state: Any, where: str = "state_dict()") -> str:
    """What in a state a checkpoint cannot hold; empty where it is tensors and plain values alone."""
    if isinstance(state, Tensor):
        return f"{where} needs a gradient: detach it" if state.requires_grad else ""
    if state is None or isinstance(state, bool | int | float | str):
        return ""
    if isinstance(state, list | tuple):
        return next((found for n, each in enumerate(state) if (found := impurity(each, f"{where}[{n}]"))), "")
    if isinstance(state, dict):
        for key, each in state.items():
            if not isinstance(key, str):
                return f"{where} has the key {key!r}, a {type(key).__name__}: use strings"
            if found := impurity(each, f"{where}[{key!r}]"):
                return found
        return ""
    return f"{where} is a {type(state).__name__}: keep tensors, numbers, strings, lists and dicts"


def same_state(one: Any, other: Any) -> bool:
    """Whether two states of `impurity`'s kind are equal, tensors bit by bit."""
    if isinstance(one, Tensor) or isinstance(other, Tensor):
        return isinstance(one, Tensor) and isinstance(other, Tensor) and same_bits(one, other)
    if isinstance(one, dict):
        return (
            isinstance(other, dict)
            and one.keys() == other.keys()
            and all(same_state(each, other[key]) for key, each in one.items())
        )
    if isinstance(one, list | tuple):
        return isinstance(other, list | tuple) and len(one) == len(other) and all(map(same_state, one, other))
    return type(one) is type(other) and bool(one == other)
