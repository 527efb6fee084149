"""The unquantized weights of a base, one linear at a time."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

from safetensors import safe_open
from torch import Tensor

from edgelora.capabilities import WantsSource
from edgelora.engine.bare_names import model_names
from edgelora.engine.base import read_config
from edgelora.engine.preparing.layout import layout_of
from edgelora.errors import ModelError
from edgelora.known_bases import recall_source
from edgelora.manifest.base_identity import identify_base, weights_files
from edgelora.manifest.tensors import MAX_BASE_HEADER, read_header
from edgelora.plan.prepared import source_is_missing
from edgelora.prepared import prepared_base


def source_weights(folder: Path) -> SourceWeights | None:
    """The unquantized weights of the base in ``folder``; None where it is prepared and nobody knows them.

    Those of a prepared base are in a folder this machine once trained on or was brought, if it still holds
    what the base was made from.

    Raises:
        ModelError: The folder holds no safetensors weights.
    """
    record = prepared_base(folder)
    if record is None:
        return SourceWeights(folder)
    source = recall_source(record.source)
    if source is None or identify_base(source).tensors_digest != record.source.tensors_digest:
        return None
    return SourceWeights(source)


def source_for(adapter: object, folder: Path) -> SourceWeights | None:
    """As `source_weights`, for an adapter that may need them to start.

    Raises:
        CombinationError: It does, and they are nowhere.
        ModelError: The folder holds no safetensors weights.
    """
    source = source_weights(folder)
    record = prepared_base(folder)
    if source is None and record is not None and isinstance(adapter, WantsSource):
        raise source_is_missing(str(folder), record, "the adapter")
    return source


class SourceWeights:
    """Reads the weight of a linear from the safetensors files it was loaded from.

    Args:
        folder: Of the base model.

    Raises:
        ModelError: The folder holds no safetensors weights.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.files = {
            tensor: name
            for name in weights_files(folder)
            for tensor in read_header(folder / name, max_header=MAX_BASE_HEADER)
        }

    def __call__(self, name: str) -> Tensor:
        """The weight (out, in) of the linear ``name``, as stored, on the CPU.

        Raises:
            ModelError: No tensor of that name is stored: the model was built from other tensors.
        """
        wanted = f"{name}.weight"
        stored = model_names(self.files, name.partition(".")[0]).get(wanted)
        if stored is None:
            raise ModelError(
                f"{self.folder} stores no tensor {wanted}, which this adapter needs unquantized",
                fix=f"leave {name} out of target_modules, or use an adapter that does not need the source",
            )
        with safe_open(self.folder / self.files[stored], framework="pt") as file:
            weight: Tensor = file.get_tensor(stored)
        return weight.T if name in self._transposed else weight

    @cached_property
    def _transposed(self) -> frozenset[str]:
        """Linears whose weights are stored as (in, out)."""
        return layout_of(read_config(self.folder)).transposed
