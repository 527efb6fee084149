"""The global random state, watched: whoever draws from it or seeds it changes the training around."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy
import torch

from edgelora.testing.check import require

_SEEDS = itertools.count(0x5EED0DD)
"""Seeds of states that nobody sets: a fault that seeds is seen only where the state was another one."""


@contextmanager
def random_state_left_as_found(what: str) -> Iterator[None]:
    """Watch calls from a state that was never there before; the state around is put back after them.

    Raises:
        AssertionError: Python's, numpy's or torch's generator is in another state after them.
    """
    around = _states()
    seed = next(_SEEDS)
    random.seed(seed)
    numpy.random.seed(seed)
    torch.manual_seed(seed)
    before = _states()
    try:
        yield
        after = _states()
    finally:
        random.setstate(around["random"])
        numpy.random.set_state(around["numpy.random"])
        torch.set_rng_state(around["torch"])
    changed = [name for name in before if not _same(before[name], after[name])]
    require(
        not changed,
        f"{what} changed the global random state of {', '.join(changed)}; seed nothing global, and draw from "
        "random.Random(seed) or a torch.Generator of its own",
    )


def _states() -> dict[str, Any]:
    return {
        "random": random.getstate(),
        "numpy.random": numpy.random.get_state(),
        "torch": torch.get_rng_state(),
    }


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor | numpy.ndarray):
        return bool((one == other).all())
    if isinstance(one, tuple):
        return all(map(_same, one, other))
    return bool(one == other)
