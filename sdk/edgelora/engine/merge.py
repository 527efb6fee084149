"""Folding an adapter into an unquantized copy of its base."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from torch import nn

from edgelora.capabilities import MergesBias
from edgelora.engine.allocator import return_freed_memory
from edgelora.engine.apply import Adapted, load_adapted, probe_logits, take_off
from edgelora.engine.base import load_base, no_progress_bar
from edgelora.engine.biases import make_room_for_biases
from edgelora.engine.embeddings import untie
from edgelora.engine.inject import replace_module
from edgelora.engine.linears import plain_linear
from edgelora.engine.pack import flush_files
from edgelora.engine.whole_model import WholeModel
from edgelora.errors import ModelError
from edgelora.files import disk_full_is_an_error, make_dirs, publish_new_directory, refuse_existing
from edgelora.layers import FrozenEmbedding, FrozenLinear, frozen_part, merge_bias_into, merge_into
from edgelora.registry import Registry

_READ_ONLY = (FrozenLinear, FrozenEmbedding)


@dataclass(frozen=True, slots=True)
class Merged:
    """What a merge wrote."""

    folder: Path
    largest_difference: float
    """Of a probe's logits before and after, absolute; rounding to the dtype written included."""
    quantizer: str | None
    """Of the base, where its weights were changed by one: they are written as it made them, dequantized."""


def load_to_merge(
    reference: str,
    registry: Registry | None = None,
    *,
    base: str | None = None,
    revision: str | None = None,
) -> Adapted:
    """An adapter on its base, in float32, for `merge`.

    An unquantized base stays in its files, so that merging takes memory for the result alone, whatever the
    dtypes.

    Args:
        reference: An adapter directory, a pulled adapter, or a reference into a store.
        registry: The installed plugins.
        base: As `edgelora.engine.apply.load_adapted` takes it.
        revision: Of ``base``, where that is a Hub id.

    Raises:
        EdgeloraError: What `edgelora.engine.apply.load_adapted` raises.
    """
    load = partial(load_adapted, reference, registry, base=base, revision=revision, dtype="float32")
    try:
        return load(in_files=True)
    except ModelError:
        # Of some architectures transformers renames the tensors, which takes them into memory.
        return load()


def load_unadapted(reference: str, registry: Registry | None = None, *, base: str | None = None) -> Adapted:
    """The base of an adapter alone, as `load_to_merge` loads it: `merge` then writes that base."""
    adapted = load_to_merge(reference, registry, base=base)
    if isinstance(adapted.layers, WholeModel):
        # Nobody knows how to undo what was done to it.
        return replace(adapted, model=load_base(adapted.plan), layers={})
    take_off(adapted.model, adapted.layers)
    return replace(adapted, layers={})


def merge(
    adapted: Adapted,
    folder: Path,
    dtype: torch.dtype = torch.float32,
    beside: Callable[[Path], Mapping[str, bytes]] = lambda _: {},
) -> Merged:
    """Write a plain transformers model that computes what the adapted model computes.

    Each weight is that of the base the adapter was trained on (dequantized, where that base was quantized)
    plus the adapter's change, rounded once to ``dtype``. Nothing is written in four bits: requantizing would
    cost more than a small adapter changes. An adapted embedding whose head is tied to it gets rows of its
    own, for the head's did not change. ``adapted`` cannot be used afterwards: layer by layer its weights are
    let go as the merged ones are made, and from then on glibc returns what this process frees at once, as
    `edgelora.engine.allocator` tells.

    Args:
        adapted: In float32; see `load_to_merge`.
        folder: To make.
        dtype: Of the weights written.
        beside: Other files to put there, by name, made from the folder with all the rest in it.

    Raises:
        ExportUnsupported: The adapter cannot be folded into one weight per linear, or into a bias where the
            architecture has no place for one.
        TargetExists: ``folder`` is there already.
        DiskFull: No space is left; nothing stays behind.
    """
    refuse_existing(folder)
    if isinstance(adapted.layers, WholeModel):
        adapted = replace(adapted, model=adapted.layers.folded(adapted.manifest))
    quantizer = adapted.plan.parts["quantizer"]
    before = probe_logits(adapted.model)
    # What each layer takes for a moment would leave holes between the merged weights.
    return_freed_memory()
    _fold(adapted, dtype)
    difference = float((probe_logits(adapted.model) - before).abs().max())
    staging = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}.tmp")
    with disk_full_is_an_error(folder):
        make_dirs(staging)
        try:
            with no_progress_bar():
                adapted.model.save_pretrained(staging)
            adapted.tokenizer.save_pretrained(staging)
            for name, data in beside(staging).items():
                (staging / name).write_bytes(data)
            flush_files(staging)
            publish_new_directory(staging, folder)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
    return Merged(folder, difference, None if quantizer.part.keeps_weights else quantizer.name)


@torch.no_grad()
def _fold(adapted: Adapted, dtype: torch.dtype) -> None:
    model = adapted.model
    biased = any(isinstance(layer, MergesBias) for layer in adapted.layers.values())
    part = adapted.plan.parts["adapter"].name
    for site in list(adapted.layers):
        # Taken out, so that its base's weight goes when the merged one is in its place.
        layer = adapted.layers.pop(site)
        base = frozen_part(layer)
        if isinstance(base, FrozenEmbedding):
            untie(model, base)
            rows = merge_into(layer, base.weight.T.float(), f"{site} of {part}").T
            replace_module(model, layer, _embedding(rows.to(dtype), base.padding_idx))
            del layer, base, rows
            continue
        weight = merge_into(layer, base.dequantize(dtype=torch.float32), f"{site} of {part}")
        bias = merge_bias_into(layer, base.bias)
        replace_module(model, layer, _plain(base, weight.to(dtype), bias))
        base.release()
        del layer, base, weight
    for name in [name for name, module in model.named_modules() if isinstance(module, _READ_ONLY)]:
        module = model.get_submodule(name)
        if isinstance(module, FrozenLinear):
            replace_module(model, module, _plain(module, module.dequantize(dtype=dtype), module.bias))
        elif isinstance(module, FrozenEmbedding):
            replace_module(model, module, _embedding(module.weight.to(dtype), module.padding_idx))
    if biased:
        make_room_for_biases(model)
    model.tie_weights()  # what was read from a file as one is one again
    model.to(dtype)
    model.config.dtype = dtype


def _plain(base: FrozenLinear, weight: torch.Tensor, bias: torch.Tensor | None) -> nn.Module:
    return plain_linear(weight, bias, fan_in_fan_out=base.fan_in_fan_out)


def _embedding(weight: torch.Tensor, padding_idx: int | None) -> nn.Embedding:
    weight = weight.contiguous()
    return nn.Embedding(*weight.shape, padding_idx=padding_idx, _weight=weight, _freeze=True)
