"""Gradient checkpointing: blocks keep their input only, and are computed again in the backward pass."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from edgelora.layers.relay import checkpoint_contexts


def enable_checkpointing(model: Any, within: Callable[[], AbstractContextManager[Any]] = nullcontext) -> None:
    """Checkpoint every block while the model trains; layers that read others get again what they got first.

    Args:
        model: By transformers.
        within: Makes a context that a block is computed in, the first time and again.
    """

    def contexts() -> tuple[_Both, _Both]:
        first, again = checkpoint_contexts()
        return _Both(first, within()), _Both(again, within())

    options = {"use_reentrant": False, "context_fn": contexts}
    with warnings.catch_warnings():  # renamed in transformers 5.2x; the old name lives until 6
        warnings.simplefilter("ignore", FutureWarning)
        model.gradient_checkpointing_enable(options)


class _Both(AbstractContextManager[None]):
    """Two contexts as one, which may be entered again where they may."""

    def __init__(self, outer: AbstractContextManager[Any], inner: AbstractContextManager[Any]) -> None:
        self.outer, self.inner = outer, inner

    def __enter__(self) -> None:
        self.outer.__enter__()
        self.inner.__enter__()

    def __exit__(self, *raised: Any) -> None:
        self.inner.__exit__(*raised)
        self.outer.__exit__(*raised)
