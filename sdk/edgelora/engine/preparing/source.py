"""The unquantized model a base is prepared from, read tensor by tensor."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from edgelora.engine.bare_names import model_names
from edgelora.engine.base import read_config
from edgelora.engine.linears import plain_linear
from edgelora.engine.preparing.layout import Layout, layout_of
from edgelora.engine.preparing.names import BESIDE
from edgelora.engine.preparing.shard import read_pieces
from edgelora.engine.stored_dtypes import DTYPES
from edgelora.errors import ModelError
from edgelora.manifest.base_identity import weights_files
from edgelora.manifest.tensors import MAX_BASE_HEADER, TensorEntry, read_header
from edgelora.prepared import prepared_base

MAX_BESIDE_BYTES = 128 * 1024 * 1024
"""Of one file that comes along; the largest tokenizers have a third of it."""
_UNUSED = r"rotary_emb\.inv_freq"
_FIX = "use the unquantized folder as the base: edgelora quantizes it each time it is loaded"


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """Where a tensor lies."""

    path: Path
    entry: TensorEntry


class SourceModel:
    """An unquantized base model on disk, its tensors by the names of the model built from its configuration.

    Args:
        folder: Of the model.
        skip_modules: Linears that will be left unquantized, by name or suffix, besides the output head.

    Raises:
        ModelError: It is quantized or prepared already, or what is stored is not what the model is built of.
        PlanError: ``skip_modules`` names no linear.
    """

    def __init__(self, folder: Path, skip_modules: tuple[str, ...] = ()) -> None:
        if record := prepared_base(folder):
            raise ModelError(
                f"{folder} is a prepared base already, of {record.source.repo} in {record.quantizer.name}",
                fix="prepare it from the unquantized model",
            )
        self.folder = folder
        config = read_config(folder)
        self.layout: Layout = layout_of(config, skip_modules)
        stored = {
            name: StoredTensor(folder / file, entry)
            for file in weights_files(folder)
            for name, entry in read_header(folder / file, max_header=MAX_BASE_HEADER).items()
        }
        self.dtype: torch.dtype = config.dtype or _first_float(stored)
        self.tensors = _by_name(folder, stored, self.layout)
        for name in self.layout.quantized:
            self._require_floats(f"{name}.weight")
            if f"{name}.bias" in self.tensors:
                self._require_floats(f"{name}.bias")

    @property
    def config(self) -> dict[str, Any]:
        """``config.json``, as it lies there."""
        document: dict[str, Any] = json.loads((self.folder / "config.json").read_bytes())
        return document

    @property
    def files_beside(self) -> dict[str, bytes]:
        """The tokenizer's files and the like, by name.

        Raises:
            ModelError: One is larger than any such file is.
        """
        paths = [path for path in sorted(self.folder.iterdir()) if BESIDE.fullmatch(path.name)]
        return {path.name: _read_beside(path) for path in paths if path.is_file()}

    def size_bytes(self, names: tuple[str, ...]) -> int:
        """Of some tensors, as they are stored."""
        return sum(self.tensors[name].entry.end - self.tensors[name].entry.start for name in names)

    def linear(self, name: str) -> nn.Module:
        """A linear in the form the model keeps it in, with its bias if it has one, in the model's dtype."""
        weight = self._read(f"{name}.weight")
        bias = self._read(f"{name}.bias") if f"{name}.bias" in self.tensors else None
        transposed = name in self.layout.transposed
        return plain_linear(weight.T if transposed else weight, bias, fan_in_fan_out=transposed)

    def _require_floats(self, name: str) -> None:
        dtype = self.tensors[name].entry.dtype
        if dtype not in DTYPES or not DTYPES[dtype].is_floating_point:
            raise _unlike(self.folder, f"holds {name} in {dtype}, which is no dtype of unquantized weights")

    def _read(self, name: str) -> Tensor:
        stored = self.tensors[name]
        # Read, not mapped: mapped pages would stay in this process for as long as there is memory.
        data = bytearray(stored.entry.end - stored.entry.start)
        at = 0
        with open(stored.path, "rb") as file:
            for piece in read_pieces(file, stored.entry):
                data[at : at + len(piece)] = piece
                at += len(piece)
        flat = torch.frombuffer(data, dtype=DTYPES[stored.entry.dtype])
        return flat.view(stored.entry.shape).to(self.dtype)


def _read_beside(path: Path) -> bytes:
    with open(path, "rb") as file:
        data = file.read(MAX_BESIDE_BYTES + 1)
    if len(data) > MAX_BESIDE_BYTES:
        raise ModelError(
            f"{path} is larger than {MAX_BESIDE_BYTES} bytes, and would come along with the weights",
            fix="move it out of the model's folder if it is none of its files",
        )
    return data


def _first_float(stored: dict[str, StoredTensor]) -> torch.dtype:
    dtypes = (DTYPES.get(tensor.entry.dtype) for tensor in stored.values())
    return next((dtype for dtype in dtypes if dtype and dtype.is_floating_point), torch.float32)


def _by_name(folder: Path, stored: dict[str, StoredTensor], layout: Layout) -> dict[str, StoredTensor]:
    tensors = {}
    stored = {name: stored[key] for name, key in model_names(stored, layout.prefix).items()}
    for name, shape in layout.shapes.items():
        if name not in stored:
            raise _unlike(folder, f"holds no tensor {name}")
        if stored[name].entry.shape != shape:
            raise _unlike(
                folder, f"holds {name} with the shape {stored[name].entry.shape_text}, not {list(shape)}"
            )
        tensors[name] = stored.pop(name)
    for name, tensor in stored.items():
        twin = layout.tied.get(name)
        if twin is None:
            if not any(re.search(pattern, name) for pattern in (*layout.unused, _UNUSED)):
                raise _unlike(folder, f"holds the tensor {name}, for which the model has no place")
        elif not _same_bytes(tensor, tensors[twin]):
            raise _unlike(folder, f"holds {name} and {twin} with different numbers, and ties them")
    return tensors


def _unlike(folder: Path, problem: str) -> ModelError:
    return ModelError(
        f"{folder} cannot be prepared, for what it stores is not what its model is built of: it {problem}",
        fix=_FIX,
    )


def _same_bytes(first: StoredTensor, second: StoredTensor) -> bool:
    if (first.entry.dtype, first.entry.shape) != (second.entry.dtype, second.entry.shape):
        return False
    with open(first.path, "rb") as one, open(second.path, "rb") as other:
        pieces = zip(read_pieces(one, first.entry), read_pieces(other, second.entry), strict=True)
        return all(a == b for a, b in pieces)
