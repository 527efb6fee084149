"""Abilities of what stock tools can compute or read by themselves; `edgelora.capabilities` has them too."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    from torch import Tensor

    from edgelora.layers import FrozenLinear

PRODUCTS_OF_PEFT = frozenset({"ADALORA", "LOHA", "LOKR", "LORA", "VERA"})
"""PEFT's types whose adapters are low-rank products, which ``edgelora adopt`` makes of them."""


@runtime_checkable
class StockPeft(Protocol):
    """`AdaptsModel` by a method of PEFT: stock PEFT computes the same from what is published."""

    def peft_config(self, model: Any) -> dict[str, Any]:
        """The contents of ``adapter_config.json``; the base's name is added."""
        ...

    def peft_tensors(self, model: Any) -> dict[str, Tensor]:
        """The contents of ``adapter_model.safetensors``: enough to compute, if not to go on training."""
        ...

    def load_peft_tensors(self, model: Any, tensors: Mapping[str, Tensor]) -> None:
        """Load what `peft_tensors` gave into a model that was just adapted and is not trained."""
        ...


@runtime_checkable
class StockQuantization(Protocol):
    """A quantizer whose bases transformers makes by itself; adapters over others are not for stock PEFT."""

    def quantization_config(self) -> Mapping[str, Any] | None:
        """Fields of transformers' ``BitsAndBytesConfig`` that make the same base.

        Empty for a base that is not quantized; None where transformers cannot make what these options make.
        """
        ...


@runtime_checkable
class StockTensors(Protocol):
    """A quantizer whose layers can be kept under the names transformers reads, by `StockQuantization`.

    Where ``quantization_config()`` is None, so are these names of no use, and nobody asks for them.
    """

    def stock_tensors(self, layer: FrozenLinear) -> dict[str, Tensor]:
        """All state of a layer it made, by names after the linear's: ``"weight"``, ``"weight.absmax"``."""
        ...

    def own_tensors(self, stock: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Inverse of `stock_tensors`: the layer's ``state_dict``. What is big is shared, not copied."""
        ...
