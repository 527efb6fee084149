"""A base model over mapped files: built without memory, then given views of its files."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import torch
from accelerate import init_empty_weights
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, GenerationConfig
from transformers.pytorch_utils import Conv1D

from edgelora.engine.allocator import return_freed_memory
from edgelora.engine.bare_names import model_names
from edgelora.engine.inject import matching, plain_linears, replace_module
from edgelora.engine.linears import shape_of
from edgelora.engine.mapped.files import MappedFiles
from edgelora.errors import ModelError
from edgelora.layers import FrozenLinear
from edgelora.layers.mapped import MappedEmbedding, MappedLinear, PagesOf
from edgelora.manifest.base_identity import weights_files
from edgelora.module_names import is_named

Restore = Callable[[Mapping[str, Tensor], str, nn.Module], FrozenLinear]
"""Makes the layer of a linear from its tensors, its name and the linear, which has a shape and no memory."""


@dataclass(frozen=True, slots=True)
class Mapped:
    """A model, and the files its weights lie in."""

    model: Any
    files: MappedFiles


def load_mapped(
    folder: Path,
    config: Any,
    restore: Restore,
    *,
    skip_modules: tuple[str, ...],
    dtype: torch.dtype,
    gives_back: bool,
) -> Mapped:
    """The frozen base in ``folder``, on the CPU, its weights being views of its files.

    Nothing is read but headers and what is small: vectors (norms, biases) and buffers get memory of their
    own, in ``dtype``. Embedding, head and unquantized linears that are stored in another dtype are converted
    as they are used. Any other weight that is stored in another dtype is converted now, whole.

    Args:
        folder: Of the base.
        config: Its transformers configuration, without a quantization.
        restore: Makes the linears inside the blocks.
        skip_modules: Linears that were not quantized, by name or suffix, besides the output head.
        dtype: In which the model computes.
        gives_back: Let embedding and head give back the memory of what they have read.

    Raises:
        ModelError: A tensor is missing, left over, or of another shape than the model's.
        PlanError: ``skip_modules`` names no linear.
    """
    if gives_back:
        # Each weight has memory for a moment before it has none; its hole would be filled later.
        return_freed_memory()
    files = MappedFiles(folder / name for name in weights_files(folder))
    model = _without_memory(config, files)
    linears = plain_linears(model)
    skipped = matching(linears, skip_modules, "skip_modules")
    tensors = _Stored(files.tensors, model, folder)
    for name, linear in linears.items():
        if not is_named(name, skipped):
            _restore(model, name, linear, tensors, restore)
    missing = _give(model, tensors)
    tensors.refuse_rest(model)
    model.tie_weights(missing_keys=missing)
    if missing:
        tensors.refuse(f"no tensor {min(missing)!r}", len(missing))
    leave_in_files(model, dtype, files.pages if gives_back else None)
    _convert_the_rest(model, dtype)
    model.config.dtype = dtype
    if (folder / "generation_config.json").is_file():
        model.generation_config = GenerationConfig.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )
    return Mapped(model.requires_grad_(False).eval(), files)


class _Stored:
    """The tensors of a base by the model's names, each to be taken once."""

    def __init__(self, tensors: Mapping[str, Tensor], model: Any, folder: Path) -> None:
        self.folder = folder
        names = model_names(tensors, model.base_model_prefix)
        self.left = {name: tensors[stored] for name, stored in names.items()}
        self.of_module: dict[str, dict[str, str]] = {}
        for name in self.left:
            parts = name.split(".")
            for length in range(1, len(parts)):
                within = self.of_module.setdefault(".".join(parts[:length]), {})
                within[".".join(parts[length:])] = name

    def take(self, name: str) -> Tensor | None:
        """A tensor of this name; None where there is none."""
        return self.left.pop(name, None)

    def take_module(self, module: str) -> dict[str, Tensor]:
        """The tensors of a module, by their names in it."""
        return {leaf: self.left.pop(name) for leaf, name in self.of_module.get(module, {}).items()}

    def refuse_rest(self, model: Any) -> None:
        """Refuse tensors nobody took, but those the architecture says are of no use."""
        patterns = [*(model._keys_to_ignore_on_load_unexpected or ()), r"rotary_emb\.inv_freq$"]
        rest = [name for name in self.left if not any(re.search(pattern, name) for pattern in patterns)]
        if rest:
            self.refuse(f"the tensor {rest[0]!r}, which the model has no place for", len(rest))

    def refuse(self, what: str, count: int = 1) -> NoReturn:
        """Say that the files hold, or lack, something."""
        others = f" ({count} such)" if count > 1 else ""
        raise ModelError(
            f"{self.folder} holds {what}{others}",
            fix="fetch the base again; if transformers loads it by renaming tensors, it cannot be streamed: "
            "set train.streamed to false",
        )


def _without_memory(config: Any, files: MappedFiles) -> Any:
    """The model with parameters that have no memory, and buffers as they are computed."""
    floats = (tensor.dtype for tensor in files.tensors.values() if tensor.is_floating_point())
    with init_empty_weights(include_buffers=False):
        return AutoModelForCausalLM.from_config(
            config, dtype=config.dtype or next(floats, torch.float32), trust_remote_code=False
        )


def _restore(model: Any, name: str, linear: nn.Module, stored: _Stored, restore: Restore) -> None:
    tensors = stored.take_module(name)
    shape = shape_of(linear)
    if ("bias" in tensors) != (linear.bias is not None):
        stored.refuse(f"{'a' if 'bias' in tensors else 'no'} bias of {name}, unlike the model")
    try:
        frozen = restore(tensors, name, linear)
    except KeyError as error:
        stored.refuse(f"no tensor {name}.{error.args[0]}")
    made = (frozen.out_features, frozen.in_features) if frozen.weight is None else tuple(frozen.weight.shape)
    if made != shape:
        stored.refuse(f"{name}.weight as {made}, and the model needs {shape}")
    if frozen.bias is not None and frozen.bias.shape != shape[:1]:
        stored.refuse(f"{name}.bias as {tuple(frozen.bias.shape)}, and the model needs {shape[:1]}")
    frozen.fan_in_fan_out = isinstance(linear, Conv1D)
    replace_module(model, linear, frozen)


def _give(model: Any, stored: _Stored) -> set[str]:
    """Put what is stored in the places of parameters and buffers; returns the names of those not stored."""
    missing = set()
    for name, place in model.state_dict(keep_vars=True).items():
        tensor = stored.take(name)
        if tensor is None:
            if place.is_meta:
                missing.add(name)
            continue
        if tensor.shape != place.shape:
            stored.refuse(f"{name} as {tuple(tensor.shape)}, and the model needs {tuple(place.shape)}")
        owner, _, leaf = name.rpartition(".")
        if isinstance(place, nn.Parameter):
            setattr(model.get_submodule(owner), leaf, nn.Parameter(tensor, requires_grad=False))
        else:
            place.copy_(tensor)
    return missing


def leave_in_files(model: Any, dtype: torch.dtype, pages_of: PagesOf | None) -> None:
    """Let layers of known arithmetic read their weights as they are stored."""
    head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    for module in list(model.modules()):
        # Of a subclass nobody knows what it does with its weight.
        if type(module) in (nn.Linear, FrozenLinear) and (module is head or module.weight.dtype != dtype):
            pages = pages_of if module is head else None
            _replace(model, module, MappedLinear(module.weight, module.bias, dtype=dtype, pages_of=pages))
    if type(embedding) is nn.Embedding:
        mapped = MappedEmbedding(embedding.weight, embedding.padding_idx, dtype=dtype, pages_of=pages_of)
        _replace(model, embedding, mapped)


def _replace(model: Any, module: nn.Module, mapped: MappedLinear | MappedEmbedding) -> None:
    mapped.weight = module.weight  # the very same parameter: it may be tied
    if isinstance(module, FrozenLinear):
        mapped.fan_in_fan_out = module.fan_in_fan_out
    replace_module(model, module, mapped)


def left_in_files(model: Any) -> set[int]:
    """The ``id`` of each weight that only layers read which convert it as they do.

    A head's weight may be that of an embedding too, which takes it as it is if it is of a class of its own.
    """
    mapped = [part for part in model.modules() if isinstance(part, MappedLinear | MappedEmbedding)]
    others = (part for part in model.modules() if not isinstance(part, MappedLinear | MappedEmbedding))
    taken = {id(parameter) for part in others for parameter in part.parameters(recurse=False)}
    return {id(part.weight) for part in mapped} - taken


def _convert_the_rest(model: Any, dtype: torch.dtype) -> None:
    left = left_in_files(model)
    for parameter in model.parameters():
        if parameter.dim() < 2:
            parameter.data = parameter.data.to(dtype, copy=True)
        elif id(parameter) not in left:
            parameter.data = parameter.data.to(dtype)
