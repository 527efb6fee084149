"""Four-bit layers under the names stock transformers and bitsandbytes keep them by.

bitsandbytes stores the codes as ``weight`` and their scales beside them: ``weight.absmax``,
``weight.quant_map`` (the 16 levels) and, of quantized scales, ``weight.nested_absmax`` and
``weight.nested_quant_map``. What is no tensor is JSON in ``weight.quant_state.bitsandbytes__<kind>``, uint8.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from edgelora.errors import ModelError
from edgelora.layers.blockwise import BlockwiseLinear
from edgelora.layers.nf4 import STATISTICS_BLOCK

_STATE = "weight.quant_state.bitsandbytes__"
_OWN_NAMES = {
    "weight": "codes",
    "weight.absmax": "absmax",
    "weight.nested_absmax": "absmax_scale",
    "weight.nested_quant_map": "absmax_code",
    "bias": "bias",
}


def stock_four_bit(layer: BlockwiseLinear) -> dict[str, Tensor]:
    """All state of ``layer`` by bitsandbytes' names, after the linear's; big tensors are shared."""
    own = layer.state_dict()
    tensors = {stock: own[name] for stock, name in _OWN_NAMES.items() if name in own}
    state: dict[str, Any] = {
        "quant_type": layer.format.name,
        "blocksize": layer.block_size,
        "dtype": str(layer.dtype).removeprefix("torch."),
        "shape": [layer.out_features, layer.in_features],
    }
    if "absmax_offset" in own:
        state |= {
            "nested_blocksize": STATISTICS_BLOCK,
            "nested_dtype": "float32",
            "nested_offset": own["absmax_offset"].item(),
        }
    tensors["weight.quant_map"] = layer.format.levels(layer.codes.device)
    text = json.dumps(state).encode()
    tensors[_STATE + layer.format.name] = torch.frombuffer(bytearray(text), dtype=torch.uint8)
    return tensors


def own_four_bit(stock: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Inverse of `stock_four_bit`: the ``state_dict`` of a `BlockwiseLinear`; big tensors are shared.

    Raises:
        ModelError: Something is missing or malformed.
    """
    own = {name: stock[key] for key, name in _OWN_NAMES.items() if key in stock}
    if "absmax_scale" in own:
        own["absmax_offset"] = torch.tensor(_offset(stock), device=stock["weight.absmax"].device)
    return own


def _offset(stock: Mapping[str, Tensor]) -> float:
    packed = next((tensor for name, tensor in stock.items() if name.startswith(_STATE)), None)
    try:
        return float(json.loads(b"" if packed is None else packed.cpu().numpy().tobytes())["nested_offset"])
    except (ValueError, TypeError, KeyError) as error:
        raise ModelError(
            "a four-bit linear is stored without a readable quant_state", fix="prepare the base again"
        ) from error
