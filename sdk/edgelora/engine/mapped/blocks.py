"""The decoder blocks of a model, found by what they hold."""

from __future__ import annotations

from typing import Any

from torch import nn

from edgelora.errors import ModelError
from edgelora.layers import FrozenLinear


def decoder_blocks(model: Any) -> list[nn.Module]:
    """The blocks that hold the frozen linears, in the order they are computed in.

    They are the members of the outermost lists of modules that hold frozen linears. A model with several such
    lists has its blocks in the order of the lists; one block at several places counts once.

    Raises:
        ModelError: No list of modules holds a frozen linear.
    """
    blocks: dict[nn.Module, None] = {}
    _collect(model, blocks)
    if not blocks:
        raise ModelError(
            f"{type(model).__name__} has no list of blocks that could be streamed one by one",
            fix="set train.streamed to false, or use a base whose layers are a list",
        )
    return list(blocks)


def _collect(module: nn.Module, blocks: dict[nn.Module, None]) -> None:
    for child in module.children():
        if isinstance(child, nn.ModuleList):
            blocks.update((block, None) for block in child if _holds_a_linear(block))
        else:
            _collect(child, blocks)


def _holds_a_linear(block: nn.Module) -> bool:
    return any(isinstance(part, FrozenLinear) for part in block.modules())
