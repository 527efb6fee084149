"""What holds for what a quantizer tells stock tools: they make the same base, or are not told to."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn

from edgelora.capabilities import StockQuantization, StockTensors
from edgelora.engine.source import SourceWeights
from edgelora.protocols import Quantizer
from edgelora.testing import tiny
from edgelora.testing.check import require, skip
from edgelora.testing.compare import bits_differ, distance, impurity
from edgelora.testing.part import PartConformance
from edgelora.testing.stock_base import prepared_weights, stock_weights


class StockChecks(PartConformance):
    """The part of `QuantizerConformance` that is about `StockQuantization`."""

    def quantizer(self) -> Quantizer:
        """The object under test."""
        return self.keep("quantizer", lambda: self.planned().build())

    def test_its_stock_configuration_is_plain(self) -> None:
        """What transformers is told are fields of ``BitsAndBytesConfig``, as JSON can hold them."""
        config = self._stock_configuration()
        defect = impurity(dict(config), "quantization_config()")
        require(not defect, defect)
        keeps = self.found().part.keeps_weights
        require(
            keeps == (not config),
            f"quantization_config() is {dict(config)} and Part(keeps_weights={keeps}): a base is streamed "
            "from its own files if its quantizer keeps weights, and then transformers is told nothing",
        )
        if config:
            from transformers import BitsAndBytesConfig

            fields = BitsAndBytesConfig().to_dict()
            strange = [name for name in config if name not in fields]
            require(not strange, f"BitsAndBytesConfig has no {', '.join(strange)}; name its own fields")

    def test_transformers_makes_the_same_base(self) -> None:
        """Told what ``quantization_config()`` says, transformers makes the same weights of the tiny base."""
        config = self._stock_configuration()
        if config and not find_spec("bitsandbytes"):
            skip("bitsandbytes is not installed, by which transformers would make the base")
        source = SourceWeights(tiny.base_folder())
        for name, weight in stock_weights(config).items():
            ours = self.quantizer().quantize(linear_of(source(name).float()), name)
            far = distance(ours.dequantize(dtype=torch.float32), weight)
            require(
                far <= 1e-4,
                f"told {dict(config)}, transformers makes another {name}, {far:.2e} away: adapters would be "
                "published for stock PEFT that mean something else there; return None from "
                "quantization_config() where it cannot make the same base",
            )

    def test_its_stock_tensors_round_trip(self) -> None:
        """What a prepared base keeps by stock names gives back the layer's own state, bit for bit."""
        quantizer = self._with_stock_tensors()
        for bias in (None, torch.linspace(-1, 1, 64)):
            source = linear_of(torch.linspace(-2, 1, 64 * 128).view(64, 128))
            source.bias = None if bias is None else nn.Parameter(bias, requires_grad=False)
            layer = quantizer.quantize(source, "up_proj")
            own, again = layer.state_dict(), quantizer.own_tensors(quantizer.stock_tensors(layer))
            different = bits_differ(own, again)
            require(
                not different,
                f"own_tensors(stock_tensors(layer)) differs from its state_dict in {different}; "
                "give every tensor its own name back",
            )

    def test_transformers_reads_what_is_prepared(self) -> None:
        """It reads a prepared base by the names of ``stock_tensors`` and has the same weights."""
        quantizer = self._with_stock_tensors()
        config = self._stock_configuration()
        if config and not find_spec("bitsandbytes"):
            skip("bitsandbytes is not installed, by which transformers would read the base")
        source = SourceWeights(tiny.base_folder())
        for name, weight in prepared_weights(self.planned()).items():
            ours = quantizer.quantize(linear_of(source(name)), name)
            far = distance(ours.dequantize(dtype=torch.float32), weight)
            require(
                far <= 1e-6,
                f"transformers reads another {name} from a prepared base, {far:.2e} away; give stock_tensors "
                "the names and forms that transformers saves",
            )

    def _with_stock_tensors(self) -> Any:
        quantizer: Any = self.quantizer()
        if not isinstance(quantizer, StockTensors):
            skip("it is not StockTensors: bases prepared with it are for edgelora alone")
        self._stock_configuration()
        return quantizer

    def _stock_configuration(self) -> Mapping[str, Any]:
        quantizer: Any = self.quantizer()
        if not isinstance(quantizer, StockQuantization):
            skip("it is not StockQuantization: adapters over it are not for stock PEFT")
        config: Mapping[str, Any] | None = quantizer.quantization_config()
        if config is None:
            skip(
                "transformers cannot make a base with these options, it says: adapters are not for stock PEFT"
            )
        return config


def linear_of(weight: Tensor) -> nn.Linear:
    """A frozen linear without bias."""
    made = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
    made.weight = nn.Parameter(weight, requires_grad=False)
    return made
