"""How linears are made from what a base stores of them."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from edgelora.capabilities import StockTensors
from edgelora.engine.linears import keeps_weights, shape_of, upright
from edgelora.engine.mapped.loading import Restore
from edgelora.engine.quantized_shapes import state_shapes
from edgelora.engine.stored_dtypes import DTYPES
from edgelora.errors import ModelError
from edgelora.layers import FrozenLinear
from edgelora.layers.stored import require_names, unlike
from edgelora.plan import Plan
from edgelora.plan.prepared import not_in_files
from edgelora.prepared import PreparedBase
from edgelora.protocols import Quantizer

_SAMPLED_ROWS = 8


def from_unquantized(plan: Plan) -> Restore:
    """Linears as they lie in the files of an unquantized base.

    Raises:
        CombinationError: The plan's quantizer changes weights, so that its layers are in no file.
    """
    quantizer = plan.build("quantizer")
    if not keeps_weights(quantizer):
        raise not_in_files(plan.recipe.base, plan.parts["quantizer"].name)

    def restore(tensors: Mapping[str, Tensor], name: str, linear: nn.Module) -> FrozenLinear:
        own, dtype = upright(tensors, linear), tensors["weight"].dtype
        layer: FrozenLinear = quantizer.restore(own, name, shape_of(linear), dtype)
        return layer

    return restore


def from_prepared(plan: Plan, record: PreparedBase) -> Restore:
    """Linears as the plan's quantizer made them when the base was prepared.

    Raises:
        ModelError: They are kept by names that the quantizer does not know.
    """
    quantizer, dtype = plan.build("quantizer"), DTYPES[record.dtype]
    if record.form == "stock" and not isinstance(quantizer, StockTensors):
        raise ModelError(
            f"{plan.recipe.base} keeps its linears as transformers does, and quantizer "
            f"{plan.parts['quantizer'].name!r} cannot read them",
            fix="prepare the base again: edgelora bases prepare",
        )

    def restore(tensors: Mapping[str, Tensor], name: str, linear: nn.Module) -> FrozenLinear:
        own, shape = quantizer.own_tensors(tensors) if record.form == "stock" else tensors, shape_of(linear)
        if keeps_weights(quantizer):
            own = upright(own, linear)
        _require_kind(own, quantizer, name, shape, dtype)
        layer: FrozenLinear = quantizer.restore(own, name, shape, dtype)
        return layer

    return restore


def _require_kind(
    tensors: Mapping[str, Tensor], quantizer: Quantizer, name: str, shape: tuple[int, int], dtype: torch.dtype
) -> None:
    """Refuse tensors of other names or kinds than the quantizer makes; their sizes are for it to check.

    Raises:
        ModelError: One is missing, left over, of another dtype or of more or fewer dimensions.
    """
    kept = state_shapes(quantizer, (min(shape[0], _SAMPLED_ROWS), shape[1]), dtype)
    require_names(tensors, kept, name)
    for each, (size, kind) in kept.items():
        if tensors[each].dtype != kind or tensors[each].dim() != len(size):
            raise unlike(f"{name}.{each} is of {tensors[each].dtype} in {tensors[each].dim()} dimensions")
