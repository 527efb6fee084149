"""Was a prepared base made from the model it names? Shown by making it again, one tensor at a time."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path

from torch import nn

from edgelora.engine.linears import quantize_linear
from edgelora.engine.preparing.prepare import OnProgress, give, progress_of
from edgelora.engine.preparing.shard import bytes_of, converted_pieces, kept_dtype
from edgelora.engine.preparing.source import SourceModel
from edgelora.engine.preparing.writer import stored_tensors
from edgelora.engine.stored_dtypes import DTYPES
from edgelora.errors import WrongBase
from edgelora.manifest.base_identity import identify_base
from edgelora.manifest.tensor_digest import hash_weights
from edgelora.manifest.tensors import TensorEntry
from edgelora.plan import part_from_document
from edgelora.prepared import PreparedBase
from edgelora.protocols import Quantizer
from edgelora.registry import Registry


def differing_tensors(
    folder: Path,
    record: PreparedBase,
    source: Path,
    registry: Registry,
    on_progress: OnProgress | None = None,
) -> list[str]:
    """Names of the tensors that are others when the base is prepared again; empty if all are the same.

    Args:
        folder: Of the prepared base.
        record: What it says of itself.
        source: The unquantized model it is said to be made from.
        registry: The installed plugins.
        on_progress: Told after each tensor.

    Raises:
        WrongBase: ``source`` holds another model.
        PluginMissing: The quantizer is not installed.
        EdgeloraError: Whatever else `edgelora.engine.preparing.prepare.prepare_base` raises of a source.
    """
    found = identify_base(source)
    if found.tensors_digest != record.source.tensors_digest:
        raise WrongBase(
            f"{folder} says that it was made from {record.source.repo}, whose weights have the digest "
            f"{record.source.tensors_digest}; those in {source} have {found.tensors_digest}",
            fix=f"pass the folder of {record.source.repo}; if that is what you passed, do not use {folder}",
        )
    model = SourceModel(source, record.skip_modules)
    part = part_from_document("quantizer", record.quantizer.model_dump(), registry)
    comparison = _Comparison(folder, record, part.build())
    progress = progress_of(sum(map(model.size_bytes, model.layout.shards)), on_progress)
    for names in model.layout.shards:
        give(model, names, comparison, progress)
    return sorted({*comparison.different, *comparison.left})


class _Comparison:
    """Holds what a model's tensors become against the digests of what is stored."""

    def __init__(self, folder: Path, record: PreparedBase, quantizer: Quantizer) -> None:
        self.left = {
            name: tensor.sha256
            for file in record.weights
            for name, tensor in hash_weights(folder / file.path).tensors.items()
        }
        self.different: list[str] = []
        self._quantizer = quantizer
        self._dtype = DTYPES[record.dtype]

    def linear(self, name: str, linear: nn.Module) -> None:
        """Quantize it again."""
        layer = quantize_linear(self._quantizer, linear, name)
        for leaf, tensor in stored_tensors(self._quantizer, layer).items():
            self._compare(f"{name}.{leaf}", sha256(bytes_of(tensor)).hexdigest())

    def copy(self, name: str, path: Path, entry: TensorEntry) -> None:
        """Read it again."""
        digest = sha256()
        with open(path, "rb") as file:
            for piece in converted_pieces(file, entry, kept_dtype(entry.dtype, self._dtype)):
                digest.update(piece)
        self._compare(name, digest.hexdigest())

    def _compare(self, name: str, digest: str) -> None:
        if self.left.pop(name, None) != digest:
            self.different.append(name)
