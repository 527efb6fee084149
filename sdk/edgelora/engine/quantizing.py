"""Loading by transformers with the plan's quantizer: it is given each linear's weight when that is read."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers.core_model_loading import ConversionOps
from transformers.quantizers.auto import register_quantization_config, register_quantizer
from transformers.quantizers.base import HfQuantizer
from transformers.utils.quantization_config import QuantizationConfigMixin

from edgelora.engine.inject import matching, plain_linears
from edgelora.engine.linears import is_linear, quantize_linear
from edgelora.layers import FrozenLinear
from edgelora.module_names import is_named
from edgelora.protocols import Quantizer


class QuantizeOnRead(QuantizationConfigMixin):
    """Carries the plan's quantizer through ``from_pretrained``.

    Args:
        quantizer: Of the plan.
        skip_modules: Linears left unquantized, by name or suffix, besides the output head.

    Attributes:
        failure: The first error of the quantizer.
    """

    def __init__(self, quantizer: Quantizer, skip_modules: tuple[str, ...]) -> None:
        self.quant_method = "edgelora"
        self.quantizer = quantizer
        self.skip_modules = skip_modules
        self.failure: Exception | None = None
        self._frozen: dict[str, FrozenLinear] = {}

    @torch.no_grad()
    def freeze(self, model: Any, name: str, weight: Tensor) -> None:
        """Quantize the linear ``name``, whose weight, in the form the model keeps it in, was just read.

        Until all is loaded a weight without numbers stands in the model that counts as read: some models look
        at the weights of their linears when they initialize what was in no file.
        """
        linear = model.get_submodule(name)
        linear.weight = nn.Parameter(weight, requires_grad=False)
        try:
            self._frozen[name] = quantize_linear(self.quantizer, linear, name)
        except Exception as error:
            # transformers collects errors of conversions and reports them as its own; keep the first.
            self.failure = self.failure or error
            raise
        linear.weight = nn.Parameter(weight.new_empty(0), requires_grad=False)
        linear.weight._is_hf_initialized = True

    def put_into(self, model: Any) -> None:
        """Put the frozen linears in their places, with the biases that were read since."""
        for name, frozen in self._frozen.items():
            bias = model.get_submodule(name).bias
            frozen.bias = None if bias is None else nn.Parameter(bias.data, requires_grad=False)
            model.set_submodule(name, frozen)
        self._frozen.clear()

    def to_dict(self) -> dict[str, Any]:
        """What transformers tells of it."""
        return {"quant_method": self.quant_method}


class _LoadQuantizer(HfQuantizer):
    """Gives each linear's weight to the plan's quantizer the moment it is read."""

    def _process_model_before_weight_loading(self, model: Any, **kwargs: Any) -> Any:
        matching(plain_linears(model), self.quantization_config.skip_modules, "skip_modules")
        return model

    def param_needs_quantization(self, model: Any, param_name: str, **kwargs: Any) -> bool:
        name, _, leaf = param_name.rpartition(".")
        if leaf != "weight":
            return False
        module = model.get_submodule(name)
        return (
            is_linear(module)
            and module is not model.get_output_embeddings()
            and not is_named(name, self.quantization_config.skip_modules)
        )

    def get_quantize_ops(self) -> ConversionOps:
        return _Quantization(self.quantization_config)

    def is_serializable(self) -> bool:
        return False

    @property
    def is_trainable(self) -> bool:
        return True


class _Quantization(ConversionOps):
    def __init__(self, config: QuantizeOnRead) -> None:
        self.config = config

    def convert(self, input_dict: dict[str, Any], model: Any = None, **kwargs: Any) -> dict[str, Any]:
        missing = kwargs.get("missing_keys") or set()
        for param_name, value in input_dict.items():
            weight = value[0] if isinstance(value, list) else value
            self.config.freeze(model, param_name.removesuffix(".weight"), weight)
            missing.discard(param_name)
        return {}


register_quantization_config("edgelora")(QuantizeOnRead)
register_quantizer("edgelora")(_LoadQuantizer)
