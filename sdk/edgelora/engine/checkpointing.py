"""Gradient checkpointing: blocks keep their input only, and are computed again in the backward pass."""

from __future__ import annotations

import warnings
from typing import Any


def enable_checkpointing(model: Any) -> None:
    """Checkpoint every block while the model trains, in the form that layers which read others survive."""
    with warnings.catch_warnings():  # renamed in transformers 5.2x; the old name lives until 6
        warnings.simplefilter("ignore", FutureWarning)
        model.gradient_checkpointing_enable({"use_reentrant": False})
