"""Bases that are left in their files: all of them where they are prepared, and streamed where asked for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from edgelora.engine.allocator import return_freed_memory
from edgelora.engine.inject import replace_module
from edgelora.engine.mapped.blocks import decoder_blocks
from edgelora.engine.mapped.loading import Mapped, load_mapped
from edgelora.engine.mapped.residency import MappedBlocks, Residency
from edgelora.engine.mapped.restoring import from_prepared, from_unquantized
from edgelora.engine.mapped.slots import MovedBlocks
from edgelora.layers import FrozenLinear
from edgelora.layers.mapped import MappedLinear
from edgelora.plan import Plan
from edgelora.prepared import PreparedBase


def load_prepared(
    folder: Path, config: Any, record: PreparedBase, plan: Plan, *, dtype: torch.dtype, device: torch.device
) -> Any:
    """The prepared base in ``folder``: on a CPU a view of its files; streamed, where the plan says so.

    Args:
        folder: Of the base.
        config: Its transformers configuration; a quantization in it is removed.
        record: Of the base.
        plan: Names the quantizer the base was prepared with.
        dtype: In which the model computes.
        device: Where it computes.

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
        stream(base, device)
    return base.model if streamed else base.model.to(device)


def load_streamed(folder: Path, config: Any, plan: Plan, dtype: torch.dtype, device: torch.device) -> Any:
    """The unquantized base in ``folder``, streamed from its own files.

    Args:
        folder: Of the base.
        config: Its transformers configuration.
        plan: Names the quantizer and the modules to skip.
        dtype: In which the model computes.
        device: Where it computes.

    Raises:
        CombinationError: The quantizer changes weights, so that they are in no file.
        ModelError: The files are not those of the model, or it has no list of blocks.
    """
    restore, skipped = from_unquantized(plan), plan.recipe.skip_modules
    base = load_mapped(folder, config, restore, skip_modules=skipped, dtype=dtype, gives_back=True)
    stream(base, device)
    return base.model


def stream(base: Mapped, device: torch.device) -> None:
    """Keep no more than two blocks of a base in memory from now on, whatever computes with it.

    On a CPU that is advice about the pages of its files. To any other device the blocks are copied in turn;
    the embedding and what is small stay there, and the head is copied there a chunk at a time.

    Args:
        base: As `load_mapped` loaded it, giving back.
        device: Where it is to compute.

    Raises:
        ModelError: It has no list of blocks.
    """
    blocks = decoder_blocks(base.model)
    for linear in _linears(blocks):
        linear.pages = base.files.pages([*linear.parameters(), *linear.buffers()])
    base.files.pages(base.files.tensors.values()).release()  # what was copied from there at loading
    if device.type == "cpu":
        held = MappedBlocks(blocks, base.files)
        return_freed_memory(max(pages.size_bytes for pages in held.pages))
        Residency(blocks, held)
    else:
        move(base, device)


def move(base: Mapped, device: torch.device) -> None:
    """Stream a base to a device block by block; see `stream`."""
    model, blocks = base.model, decoder_blocks(base.model)
    for linear in _linears(blocks):
        if type(linear) is FrozenLinear:
            # The product of a plain one is kept with its weight for the backward pass, when that has gone.
            mapped = MappedLinear(linear.weight, linear.bias, dtype=model.config.dtype)
            mapped.pages, mapped.fan_in_fan_out = linear.pages, linear.fan_in_fan_out
            replace_module(model, linear, mapped)
    holder = MovedBlocks(blocks, base.files, device)
    for linear in _linears(blocks):
        linear.moves_to = device
    _move_the_rest(model, holder, device)
    Residency(blocks, holder)


def _move_the_rest(model: Any, holder: MovedBlocks, device: torch.device) -> None:
    staying = {id(place.resting) for places in holder.tensors for place in places}
    head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    if isinstance(head, MappedLinear) and head.weight is not embedding.weight:
        staying.add(id(head.weight))
    for tensor in (*model.parameters(), *model.buffers()):
        if id(tensor) not in staying:
            tensor.data = tensor.data.to(device)


def _linears(blocks: Sequence[nn.Module]) -> list[FrozenLinear]:
    return [part for block in blocks for part in block.modules() if isinstance(part, FrozenLinear)]
