"""Gradient checkpointing: blocks keep their input only, and are computed again in the backward pass."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any


def enable_checkpointing(model: Any, within: Callable[[], AbstractContextManager[Any]] = nullcontext) -> None:
    """Checkpoint every block while the model trains, in the form that layers which read others survive.

    Args:
        model: By transformers.
        within: Makes a context that a block is computed in, the first time and again.
    """
    options = {"use_reentrant": False, "context_fn": lambda: (within(), within())}
    with warnings.catch_warnings():  # renamed in transformers 5.2x; the old name lives until 6
        warnings.simplefilter("ignore", FutureWarning)
        model.gradient_checkpointing_enable(options)
