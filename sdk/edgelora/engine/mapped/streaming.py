"""Streaming: a mapped base of which two blocks are in memory."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from edgelora.capabilities import StockQuantization
from edgelora.engine.mapped.blocks import decoder_blocks
from edgelora.engine.mapped.loading import Mapped, load_mapped
from edgelora.engine.mapped.residency import MappedBlocks, Residency
from edgelora.errors import CombinationError
from edgelora.layers import FrozenLinear
from edgelora.plan import Plan
from edgelora.protocols import Quantizer


def load_streamed(folder: Path, config: Any, plan: Plan, dtype: torch.dtype) -> Any:
    """The unquantized base in ``folder``, streamed from its own files.

    Args:
        folder: Of the base.
        config: Its transformers configuration.
        plan: Names the quantizer and the modules to skip.
        dtype: In which the model computes.

    Raises:
        CombinationError: The quantizer changes weights, so that they are in no file.
        ModelError: The base cannot be mapped, or has no list of blocks.
    """
    quantizer = plan.build("quantizer")
    if not _leaves_weights_alone(quantizer):
        name = plan.parts["quantizer"].name
        raise CombinationError(
            f"train.streamed reads each layer from its file again and again, and {folder} holds none that "
            f"{name} has quantized",
            fix=f"prepare it first: edgelora bases prepare {plan.recipe.base} --quantizer {name}",
        )

    def restore(tensors: Mapping[str, Tensor], name: str, shape: tuple[int, int]) -> FrozenLinear:
        return quantizer.restore(tensors, name, shape, tensors["weight"].dtype)

    base = load_mapped(
        folder, config, restore, skip_modules=plan.recipe.skip_modules, dtype=dtype, gives_back=True
    )
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


def _leaves_weights_alone(quantizer: Quantizer) -> bool:
    return isinstance(quantizer, StockQuantization) and quantizer.quantization_config() == {}
