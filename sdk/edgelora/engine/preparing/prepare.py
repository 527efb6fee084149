"""From an unquantized model to a prepared base, one tensor at a time."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Protocol

import torch
from torch import nn

from edgelora import micro
from edgelora.engine.preparing.shard import tensor_bytes
from edgelora.engine.preparing.source import SourceModel
from edgelora.engine.preparing.target import require_apart
from edgelora.engine.preparing.writer import Preparation, PreparedWriter, stored_tensors
from edgelora.engine.stored_dtypes import DTYPE_NAMES
from edgelora.files import require_space
from edgelora.manifest.base_files import check_base_unchanged, state_of_base
from edgelora.manifest.base_identity import identify_base
from edgelora.manifest.tensors import TensorEntry
from edgelora.plan.part import PlannedPart
from edgelora.prepared import PreparedBase
from edgelora.transfer import Progress

OnProgress = Callable[[Progress], None]
_PROBE_ROWS = 64


@dataclass(frozen=True, slots=True)
class Prepared:
    """What was prepared."""

    folder: Path
    record: PreparedBase
    source_bytes: int
    """Of the unquantized tensors."""
    reused_shards: int
    """That an earlier try had finished."""


class Sink(Protocol):
    """Takes what becomes of a model's tensors; `edgelora.engine.preparing.writer.PreparedShard` is one."""

    def linear(self, name: str, linear: nn.Module) -> None:
        """A linear that is to be quantized, in the form the model keeps it in."""
        ...

    def copy(self, name: str, path: Path, entry: TensorEntry) -> None:
        """A tensor that stays as it is, where it lies."""
        ...


def prepare_base(
    source: Path,
    folder: Path,
    part: PlannedPart,
    *,
    skip_modules: tuple[str, ...] = (),
    overwrite: bool = False,
    on_progress: OnProgress | None = None,
) -> Prepared:
    """Quantize the model in ``source`` into ``folder``, which appears whole or not at all.

    Of all tensors one linear is in memory at a time, on the CPU, with what the quantizer makes of it. A try
    that was stopped, even by kill -9, goes on after the shards it had finished. The codes are those that
    `edgelora.engine.base.load_base` makes of the same model.

    Args:
        source: The unquantized model.
        folder: Where the prepared base will be.
        part: The quantizer, with its options.
        skip_modules: Linears left unquantized, by name or suffix, besides the output head.
        overwrite: Replace a prepared base that is there, in one step, when all is written.
        on_progress: Told after each tensor.

    Raises:
        ModelError: The model is quantized or prepared already, or cannot be read tensor by tensor.
        TargetExists: ``folder`` is there, or shares a folder with ``source``.
        RunLocked: Another process is preparing it.
        DiskFull: There is no space; what is finished stays for the next try.
    """
    require_apart(source, folder)
    state = state_of_base(source)
    model = SourceModel(source, skip_modules)
    named = "micro" if source == micro.path() else None
    preparation = Preparation(identify_base(source, repo=named), part, model.dtype, skip_modules)
    shards = model.layout.shards
    with PreparedWriter(folder, preparation, model.layout, overwrite=overwrite) as writer:
        missing = writer.missing_shards()
        _require_space(writer, model, missing)
        progress = progress_of(sum(model.size_bytes(shards[index]) for index in missing), on_progress)
        for index in missing:
            with writer.shard(index) as shard:
                give(model, shards[index], shard, progress)
        check_base_unchanged(source, state)
        record = writer.publish(model.config, model.files_beside)
    total = sum(map(model.size_bytes, shards))
    return Prepared(writer.folder, record, total, len(shards) - len(missing))


@torch.no_grad()
def give(model: SourceModel, names: Iterable[str], sink: Sink, done: Callable[[int], None]) -> None:
    """Give some tensors of a model to ``sink``, the linears that are quantized as linears.

    Args:
        model: Whose.
        names: Of its tensors; the bias of a quantized linear comes with its weight.
        sink: Takes them.
        done: Told of the bytes of each tensor, as it is stored.
    """
    for name in names:
        linear, _, leaf = name.rpartition(".")
        if linear not in model.layout.quantized:
            sink.copy(name, model.tensors[name].path, model.tensors[name].entry)
        elif leaf == "weight":
            sink.linear(linear, model.linear(linear))
        done(model.size_bytes((name,)))


def progress_of(total_bytes: int, tell: OnProgress | None) -> Callable[[int], None]:
    """What counts bytes that are done and tells how far it is."""
    done_bytes, start_s = 0, time.monotonic()

    def count(more_bytes: int) -> None:
        nonlocal done_bytes
        done_bytes += more_bytes
        if tell:
            tell(Progress(done_bytes, total_bytes, time.monotonic() - start_s))

    return count


def _require_space(writer: PreparedWriter, model: SourceModel, missing: list[int]) -> None:
    """A shard lies on the disk twice while it is put together."""
    sizes = _Sizes(writer, model)
    shards = [sum(map(sizes.of, model.layout.shards[index])) for index in missing]
    require_space(
        writer.folder,
        sum(shards) + max(shards, default=0),
        fix=f"free space there, or pass another --out; {model.folder} is untouched",
    )


class _Sizes:
    """What tensors will take in a prepared base; of quantized ones, estimated from a few rows of zeros."""

    def __init__(self, writer: PreparedWriter, model: SourceModel) -> None:
        self._writer = writer
        self._model = model
        self._bytes_per_row: dict[int, float] = {}

    def of(self, name: str) -> int:
        shape = self._model.layout.shapes[name]
        linear, _, leaf = name.rpartition(".")
        if linear in self._model.layout.quantized and leaf == "weight":
            out, in_ = reversed(shape) if linear in self._model.layout.transposed else shape
            return round(out * self._row(in_))
        dtype = self._model.tensors[name].entry.dtype
        return max(tensor_bytes(dtype, shape), tensor_bytes(DTYPE_NAMES[self._model.dtype], shape))

    def _row(self, in_features: int) -> float:
        if in_features not in self._bytes_per_row:
            zeros = torch.zeros(_PROBE_ROWS, in_features, dtype=self._model.dtype)
            probe = nn.Linear(in_features, _PROBE_ROWS, bias=False, device="meta")
            probe.weight = nn.Parameter(zeros, requires_grad=False)
            layer = self._writer.quantizer.quantize(probe, "a probe of the size")
            tensors = stored_tensors(self._writer.quantizer, layer).values()
            stored = sum(prod(tensor.shape) * tensor.element_size() for tensor in tensors)
            self._bytes_per_row[in_features] = stored / _PROBE_ROWS
        return self._bytes_per_row[in_features]
