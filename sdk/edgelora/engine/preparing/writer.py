"""Writes a prepared base shard by shard; after a crash, what was finished is kept.

    with PreparedWriter(folder, preparation, layout) as writer:
        for index in writer.missing_shards():
            with writer.shard(index) as shard:
                shard.linear("model.layers.0.mlp.up_proj", linear)  # an nn.Linear, quantized here
                shard.tensor("model.layers.0.input_layernorm.weight", tensor)
        writer.publish(config, {"tokenizer.json": data})

Until it is published all lies in a hidden folder beside the target, where no reader looks.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor, nn

from edgelora.capabilities import StockQuantization, StockTensors
from edgelora.engine.linears import keeps_weights, quantize_linear
from edgelora.engine.preparing.journal import take_over, write_journal
from edgelora.engine.preparing.layout import Layout
from edgelora.engine.preparing.names import CONFIG_NAME, JOURNAL_NAME, shard_name
from edgelora.engine.preparing.shard import ShardWriter
from edgelora.engine.preparing.target import require_free
from edgelora.engine.stored_dtypes import DTYPE_NAMES
from edgelora.errors import RunLocked
from edgelora.files import (
    disk_full_is_an_error,
    fsync_dir,
    lock_if_free,
    make_dirs,
    publish_directory,
    publish_new_directory,
    write_new,
)
from edgelora.layers import FrozenLinear
from edgelora.locations import home
from edgelora.manifest import Base, PartRef
from edgelora.manifest.base import BaseFile
from edgelora.manifest.tensor_digest import HashedFile, digest_of_tensors
from edgelora.manifest.tensors import TensorEntry
from edgelora.plan.part import PlannedPart
from edgelora.prepared import INDEX_NAMES, RECORD_NAME, Form, PreparedBase, record_bytes


@dataclass(frozen=True, slots=True)
class Preparation:
    """What a prepared base is made from, and how.

    Attributes:
        source: The unquantized model.
        quantizer: The part that quantizes, with its options.
        dtype: In which weights are given to it, and in which what is not quantized is kept.
        skip_modules: Linears left unquantized, by name or suffix, besides the output head.
    """

    source: Base
    quantizer: PlannedPart
    dtype: torch.dtype
    skip_modules: tuple[str, ...] = ()


class PreparedShard:
    """One shard that is being written. Names are those of the model's ``state_dict``."""

    def __init__(self, writer: PreparedWriter, shard: ShardWriter) -> None:
        self._writer = writer
        self._shard = shard

    def tensor(self, name: str, tensor: Tensor) -> None:
        """Store a tensor that is not quantized."""
        self._shard.add(name, tensor)

    def copy(self, name: str, path: Path, entry: TensorEntry) -> None:
        """Store a tensor that is not quantized from another safetensors file, never whole in memory."""
        self._shard.copy(name, path, entry, self._writer.preparation.dtype)

    def linear(self, name: str, linear: nn.Module) -> None:
        """Quantize a linear and store its layer; ``linear`` may be forgotten afterwards."""
        self.layer(name, quantize_linear(self._writer.quantizer, linear, name))

    def layer(self, name: str, layer: FrozenLinear) -> None:
        """Store a layer that the quantizer made."""
        for leaf, tensor in stored_tensors(self._writer.quantizer, layer).items():
            self._shard.add(f"{name}.{leaf}", tensor)


class PreparedWriter:
    """Writes one prepared base; one process at a time may write a folder.

    Args:
        folder: Where it will be. Its parent is made where needed.
        preparation: What it is made from, and how.
        layout: How it is spread over shards.
        overwrite: Replace a prepared base that is there, in one step, when all is written.

    Raises:
        TargetExists: ``folder`` is there, and ``overwrite`` was not asked for or it is no prepared base.
    """

    def __init__(
        self, folder: Path, preparation: Preparation, layout: Layout, *, overwrite: bool = False
    ) -> None:
        self.folder = folder.absolute()
        self.preparation = preparation
        self.layout = layout
        self.quantizer = preparation.quantizer.build()
        self.stock = stock_configuration(self.quantizer)
        self.staging = self.folder.with_name(f".{self.folder.name}.preparing")
        self._overwrite = overwrite
        require_free(self.folder, overwrite=overwrite)
        self._finished: dict[str, HashedFile] = {}
        self._opened = ExitStack()

    def __enter__(self) -> Self:
        """Take over what an earlier try at the same finished.

        Raises:
            RunLocked: Another process is writing the folder.
            TargetExists: What lies where unfinished work would is none of ours.
        """
        name = hashlib.sha256(os.fsencode(self.folder)).hexdigest()[:32]
        lock = lock_if_free(home() / "locks" / f"prepare-{name}.lock")
        if not self._opened.enter_context(lock):
            self._opened.close()
            raise RunLocked(f"another process is preparing {self.folder}", fix="wait until it is done")
        try:
            if not os.path.lexists(self.staging):
                with disk_full_is_an_error(self.folder):
                    make_dirs(self.staging)
            self._finished = take_over(self.staging, self._work())
        except BaseException:
            self._opened.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._opened.close()

    def missing_shards(self) -> list[int]:
        """Indices of ``layout.shards`` that are still to be written."""
        return [index for index in range(len(self.layout.shards)) if self._name(index) not in self._finished]

    @contextmanager
    def shard(self, index: int) -> Iterator[PreparedShard]:
        """Write the shard ``index``; it is finished, durably, when the block ends without an error.

        Raises:
            DiskFull: No space is left; finished shards stay, and the next try goes on after them.
        """
        name = self._name(index)
        with ShardWriter(self.staging / name) as writer:
            yield PreparedShard(self, writer)
            self._finished[name] = writer.finish()
        write_journal(self.staging, self._work(), self._finished)

    def publish(self, config: Mapping[str, Any], files: Mapping[str, bytes]) -> PreparedBase:
        """Add what is not weights, and let the folder appear, whole.

        Args:
            config: ``config.json`` of the unquantized model.
            files: The tokenizer's, by name.

        Raises:
            DiskFull: No space is left; the next try goes on from here.
            TargetExists: In the meantime a folder appeared in its place; as above.
        """
        if missing := self.missing_shards():
            raise ValueError(f"shard {missing[0]} is not written")
        beside = {
            **files,
            CONFIG_NAME: _json({**config, **self._quantization_config()}),
            INDEX_NAMES[self._form]: self._index(),
        }
        record = self._record(beside)
        with disk_full_is_an_error(self.folder):
            for name, data in {**beside, RECORD_NAME: record_bytes(record)}.items():
                (self.staging / name).unlink(missing_ok=True)
                write_new(self.staging / name, data)
            fsync_dir(self.staging)
            self._let_appear()
        # Only now: shards are taken over as long as there is a journal.
        (self.folder / JOURNAL_NAME).unlink(missing_ok=True)
        return record

    def _let_appear(self) -> None:
        require_free(self.folder, overwrite=self._overwrite)
        if os.path.lexists(self.folder):
            publish_directory(self.staging, self.folder)
            shutil.rmtree(self.staging, ignore_errors=True)
        else:
            publish_new_directory(self.staging, self.folder)

    @property
    def _form(self) -> Form:
        return "own" if self.stock is None else "stock"

    def _record(self, beside: Mapping[str, bytes]) -> PreparedBase:
        part = self.preparation.quantizer
        files = [
            BaseFile(path=name, size=file.size, sha256=file.sha256) for name, file in self._finished.items()
        ]
        files += [
            BaseFile(path=name, size=len(data), sha256=hashlib.sha256(data).hexdigest())
            for name, data in beside.items()
        ]
        return PreparedBase(
            source=self.preparation.source,
            quantizer=PartRef(**part.as_document()),
            skip_modules=self.preparation.skip_modules,
            dtype=DTYPE_NAMES[self.preparation.dtype],
            form=self._form,
            files=tuple(sorted(files, key=lambda file: file.path)),
            tensors_digest=digest_of_tensors(self._finished),
        )

    def _quantization_config(self) -> dict[str, Any]:
        if not self.stock:
            return {}
        stock = {"quant_method": "bitsandbytes", **self.stock}
        return {"quantization_config": {**stock, "llm_int8_skip_modules": list(self.layout.kept)}}

    def _index(self) -> bytes:
        weight_map = {name: file for file, hashed in self._finished.items() for name in hashed.tensors}
        total = sum(file.size for file in self._finished.values())
        return _json({"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))})

    def _name(self, index: int) -> str:
        return shard_name(index, len(self.layout.shards))

    def _work(self) -> dict[str, Any]:
        """What an earlier try must have been at, for its shards to be of use."""
        return {
            "source": self.preparation.source.tensors_digest,
            "quantizer": self.preparation.quantizer.as_document(),
            "dtype": DTYPE_NAMES[self.preparation.dtype],
            "skip_modules": list(self.preparation.skip_modules),
            "shards": self.layout.shards,
            "stock": self.stock,
        }


def stock_configuration(quantizer: object) -> Mapping[str, Any] | None:
    """What transformers is told to read the layers of ``quantizer``; None where it cannot read them."""
    if isinstance(quantizer, StockTensors) and isinstance(quantizer, StockQuantization):
        return quantizer.quantization_config()
    return None


def stored_tensors(quantizer: Any, layer: FrozenLinear) -> dict[str, Tensor]:
    """What is stored of a layer that ``quantizer`` made, by names after the linear's.

    Quantized weights are (out, in); those that stay as they are stay in the form the model keeps them in.
    """
    if stock_configuration(quantizer) is None:
        return layer.state_dict()
    tensors: dict[str, Tensor] = quantizer.stock_tensors(layer)
    if layer.fan_in_fan_out and keeps_weights(quantizer):
        tensors["weight"] = tensors["weight"].T
    return tensors


def _json(document: Mapping[str, Any]) -> bytes:
    return (json.dumps(document, indent=2, ensure_ascii=False) + "\n").encode()
