"""Bases that are left in their files: all of them where they are prepared, and streamed where asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from edgelora.engine.mapped.blocks import decoder_blocks
from edgelora.engine.mapped.loading import Mapped, load_mapped
from edgelora.engine.mapped.residency import MappedBlocks, Residency
from edgelora.engine.mapped.restoring import from_prepared, from_unquantized
from edgelora.layers import FrozenLinear
from edgelora.plan import Plan
from edgelora.prepared import PreparedBase


def load_prepared(folder: Path, config: Any, record: PreparedBase, plan: Plan, dtype: torch.dtype) -> Any:
    """The prepared base in ``folder``, a view of its files; streamed, where the plan says so.

    Args:
        folder: Of the base.
        config: Its transformers configuration; a quantization in it is removed.
        record: Of the base.
        plan: Names the quantizer the base was prepared with.
        dtype: In which the model computes.

    Raises:
        ModelError: The files are not those of the model, or a streamed one has no list of blocks.
    """
    # It is for transformers, which otherwise takes the model for one of its own quantized ones.
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    streamed = plan.recipe.train.streamed
    restore = from_prepared(plan, record)
    skipped = record.skip_modules
    base = load_mapped(folder, config, restore, skip_modules=skipped, dtype=dtype, gives_back=streamed)
    if streamed:
        stream(base)
    return base.model


def load_streamed(folder: Path, config: Any, plan: Plan, dtype: torch.dtype) -> Any:
    """The unquantized base in ``folder``, streamed from its own files.

    Args:
        folder: Of the base.
        config: Its transformers configuration.
        plan: Names the quantizer and the modules to skip.
        dtype: In which the model computes.

    Raises:
        CombinationError: The quantizer changes weights, so that they are in no file.
        ModelError: The files are not those of the model, or it has no list of blocks.
    """
    restore, skipped = from_unquantized(plan), plan.recipe.skip_modules
    base = load_mapped(folder, config, restore, skip_modules=skipped, dtype=dtype, gives_back=True)
    stream(base)
    return base.model


def stream(base: Mapped) -> None:
    """Keep no more than two blocks of a base in memory from now on, whatever computes with it.

    Raises:
        ModelError: It has no list of blocks.
    """
    blocks = decoder_blocks(base.model)
    for linear in (part for block in blocks for part in block.modules() if isinstance(part, FrozenLinear)):
        linear.pages = base.files.pages([*linear.parameters(), *linear.buffers()])
    Residency(blocks, MappedBlocks(blocks, base.files))
