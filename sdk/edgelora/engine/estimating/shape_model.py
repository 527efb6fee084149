"""A base model without memory: the shapes of `load_base`'s result, from its configuration alone."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, AutoModelForCausalLM

from edgelora.engine.base import config_of, locate_base, refuse_quantized
from edgelora.engine.checkpointing import enable_checkpointing
from edgelora.engine.estimating.values import FlashAttention, on_shapes
from edgelora.engine.inject import plain_linears, replace_module
from edgelora.engine.linears import as_linear
from edgelora.engine.mapped.loading import leave_in_files, left_in_files
from edgelora.engine.quantized_shapes import state_shapes
from edgelora.errors import ModelError
from edgelora.layers import FrozenLinear
from edgelora.module_names import is_named
from edgelora.plan import Plan
from edgelora.prepared import prepared_base
from edgelora.protocols import Quantizer


def read_config(base: str, revision: str | None = None) -> Any:
    """The configuration of a base model: of a folder, a cached Hub id, ``micro``, or a ``config.json``.

    Raises:
        BaseNotFound: It is none of these.
        ModelError: It is not of a causal language model that transformers knows, or of a quantized one.
    """
    path = Path(base).expanduser()
    place = path if path.is_file() else locate_base(base, revision)
    config = config_of(place)
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise ModelError(
            f"{place}: a {config.model_type} is no causal language model", fix="pass another base"
        )
    if not prepared_base(path.parent if path.is_file() else place):
        refuse_quantized(config, place)
    return config


@dataclass(frozen=True, slots=True)
class ShapeModel:
    """A base on the meta device.

    Attributes:
        model: Its linears are those the plan's quantizer would make.
        source_bytes: Of the unquantized weights, as they are stored.
        stored: The dtype they are stored in.
        parameters: Numbers in the unquantized weights.
    """

    model: Any
    source_bytes: int
    stored: torch.dtype
    parameters: int


def make_shape_model(plan: Plan, config: Any, dtype: torch.dtype, *, in_files: bool = False) -> ShapeModel:
    """The frozen base of a plan without memory, as resident or streamed as the plan wants it.

    Args:
        plan: Names the quantizer, the modules it skips, and where the base lies.
        config: Of the base.
        dtype: In which the model computes.
        in_files: Weights are views of the base's files even where it is not streamed, as of a prepared base.

    Raises:
        ModelError: The architecture cannot be built without memory.
    """
    config = copy.deepcopy(config)
    if hasattr(config, "quantization_config"):  # of a prepared base; what quantizes is the plan's quantizer
        del config.quantization_config
    stored = config.dtype if isinstance(config.dtype, torch.dtype) else torch.float32
    with on_shapes(f"a {config.model_type} cannot be built without memory", plan), torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=stored, trust_remote_code=False)
    model.tie_weights()
    source_bytes = sum(parameter.nbytes for parameter in model.parameters())
    parameters = sum(parameter.numel() for parameter in model.parameters())
    quantizer = plan.build("quantizer")
    for name, linear in plain_linears(model).items():
        if not is_named(name, plan.recipe.skip_modules):
            replace_module(model, linear, _stand_in(quantizer, as_linear(linear), name, stored))
    if plan.recipe.train.streamed or in_files:
        leave_in_files(model, dtype, (lambda tensors: _NoPages()) if plan.recipe.train.streamed else None)
    left = left_in_files(model)
    for parameter in model.parameters():
        if id(parameter) not in left:
            parameter.data = parameter.data.to(dtype)
    model.config.dtype = dtype
    if plan.recipe.train.is_checkpointed:
        enable_checkpointing(model, within=FlashAttention)
    return ShapeModel(model.requires_grad_(False), source_bytes, stored, parameters)


class _NoPages:
    """What a tensor without memory has."""

    def ahead(self) -> None:
        """Nothing to read."""

    def release(self) -> None:
        """Nothing to give back."""


def _stand_in(quantizer: Quantizer, linear: nn.Linear, name: str, dtype: torch.dtype) -> FrozenLinear:
    """What ``quantizer`` would make of ``linear``, on the meta device."""
    shape = linear.out_features, linear.in_features
    tensors = {
        each: torch.empty(size, dtype=kind, device="meta")
        for each, (size, kind) in state_shapes(quantizer, shape, dtype).items()
    }
    if linear.bias is not None:
        tensors["bias"] = linear.bias.data
    with torch.device("meta"):
        return quantizer.restore(tensors, name, shape, dtype)
