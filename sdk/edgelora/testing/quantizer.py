"""What holds for every quantizer, tried on single linears."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from edgelora.capabilities import StockQuantization
from edgelora.engine.source import SourceWeights
from edgelora.layers import FrozenLinear
from edgelora.parts import Kind
from edgelora.protocols import Quantizer
from edgelora.testing import tiny
from edgelora.testing.check import require, skip
from edgelora.testing.compare import bits_differ, distance, frozen_copy, impurity
from edgelora.testing.part import PartConformance
from edgelora.testing.stock_base import stock_weights

SHAPES = ((64, 48), (32, 96), (24, 100))
"""(out, in): whole blocks, other blocks, and none at all."""


class QuantizerConformance(PartConformance):
    """A quantizer of an installed plugin.

    Attributes:
        largest_relative_error: Of a normally distributed weight, ‖W − Ŵ‖ / ‖W‖ (Frobenius).
        tolerance: Relative, between a forward and the product with ``dequantize()``, both in float32.
    """

    kind: ClassVar[Kind] = "quantizer"
    largest_relative_error: ClassVar[float] = 0.15
    tolerance: ClassVar[float] = 1e-5

    def quantizer(self) -> Quantizer:
        """The object under test."""
        return self.keep("quantizer", lambda: self.planned().build())

    def pairs(self) -> Iterator[tuple[nn.Linear, FrozenLinear]]:
        """Linears of several widths, with and without bias, and what the quantizer makes of them."""
        for number, (rows, columns) in enumerate(SHAPES):
            source = linear(rows, columns, bias=number != 1)
            yield source, self.quantizer().quantize(frozen_copy(source), f"model.layers.{number}.up_proj")

    def test_it_makes_a_frozen_linear_of_any_width(self) -> None:
        """A `FrozenLinear` of the same sizes, whose output has the input's shape and dtype."""
        for source, layer in self.pairs():
            name = f"the layer made of a ({source.out_features}, {source.in_features}) linear"
            require(
                isinstance(layer, FrozenLinear), f"{name} is a {type(layer).__name__}; return a FrozenLinear"
            )
            sizes = (layer.out_features, layer.in_features)
            require(sizes == tuple(source.weight.shape), f"{name} says it is {sizes}; pass both features on")
            require(
                layer.dequantize().shape == source.weight.shape,
                f"{name} dequantizes to {tuple(layer.dequantize().shape)}; cut padding off in dequantize",
            )
            for dtype in (torch.float32, torch.bfloat16):
                # As a base is loaded: what the quantizer left in floating point takes the model's dtype.
                y = layer.to(dtype)(numbers(2, 3, source.in_features).to(dtype))
                expected = (2, 3, source.out_features)
                require(
                    tuple(y.shape) == expected and y.dtype == dtype,
                    f"{name} turns {dtype} of (2, 3, {source.in_features}) into {y.dtype} of "
                    f"{tuple(y.shape)}; it must be {expected} in the dtype of the input",
                )

    def test_the_forward_is_that_of_the_dequantized_weight(self) -> None:
        """Y = x Ŵᵀ + b with Ŵ from ``dequantize()``, which adapters and merges rely on; in training too."""
        for source, layer in self.pairs():
            x = numbers(4, source.in_features)
            expected = functional.linear(x, layer.dequantize(dtype=torch.float32), source.bias)
            for mode in (True, False):
                error = distance(layer.train(mode)(x), expected)
                require(
                    error <= self.tolerance,
                    f"in_features {source.in_features}, {'training' if mode else 'evaluation'}: the "
                    f"forward is {error:.2e} from the product with dequantize() (most "
                    f"{self.tolerance:g}); compute both from the same codes",
                )

    def test_the_gradient_of_the_input_is_that_of_the_dequantized_weight(self) -> None:
        """∂L/∂x = g Ŵ: the base passes gradients on to the layers below it."""
        for source, layer in self.pairs():
            x = numbers(4, source.in_features).requires_grad_()
            g = numbers(4, source.out_features, seed=2)
            layer.train()(x).backward(g)
            require(x.grad is not None, "no gradient reaches the input; do not detach it in forward")
            error = distance(x.grad, g @ layer.dequantize(dtype=torch.float32))
            require(
                error <= self.tolerance,
                f"in_features {source.in_features}: the gradient of the input is {error:.2e} from g @ "
                f"dequantize() (most {self.tolerance:g}); use QuantizedLinear's forward, or fix backward",
            )

    def test_the_weight_error_is_small(self) -> None:
        """‖W − Ŵ‖ / ‖W‖ of normally distributed weights is at most ``largest_relative_error``."""
        errors = {
            source.in_features: distance(layer.dequantize(dtype=torch.float32), source.weight)
            for source, layer in self.pairs()
        }
        worst = max(errors, key=errors.__getitem__)
        self.note("the_weight_error_is_small", f"relative error {errors[worst]:.4f}")
        require(
            errors[worst] <= self.largest_relative_error,
            f"the relative error of a weight with in_features {worst} is {errors[worst]:.4f}, above "
            f"largest_relative_error = {self.largest_relative_error}; fix the quantizer, or raise that "
            "bound in the test with a reason",
        )

    def test_a_restored_layer_answers_in_the_dtype_it_had(self) -> None:
        """``dequantize()`` of a layer made of 16-bit weights is of 16 bits, restored too."""
        source = linear(*SHAPES[0], bias=False).to(torch.bfloat16)
        layer = self.quantizer().quantize(frozen_copy(source), "model.layers.0.up_proj")
        again = self.quantizer().restore(
            layer.state_dict(), "model.layers.0.up_proj", SHAPES[0], torch.bfloat16
        )
        for which, each in (("quantized", layer), ("restored", again)):
            found = each.dequantize().dtype
            require(
                found == torch.bfloat16,
                f"dequantize() of a {which} layer of bfloat16 weights answers in {found}; keep the dtype "
                "that quantize finds and restore is given",
            )

    def test_the_state_round_trips(self) -> None:
        """``restore`` of the ``state_dict`` gives the same bits and the same outputs."""
        for source, layer in self.pairs():
            shape = (source.out_features, source.in_features)
            state = {name: tensor.clone() for name, tensor in layer.state_dict().items()}
            again = self.quantizer().restore(dict(state), "model.layers.0.up_proj", shape, torch.float32)
            require(
                not (different := bits_differ(state, again.state_dict())),
                f"restored tensors differ in {different}; hold all state in parameters and persistent "
                "buffers",
            )
            x = numbers(4, source.in_features)
            require(
                torch.equal(layer(x), again(x))
                and torch.equal(layer.dequantize(dtype=torch.float32), again.dequantize(dtype=torch.float32)),
                "a restored layer has the same tensors and computes something else; keep nothing it "
                "needs outside of state_dict()",
            )

    def test_the_bias_is_kept(self) -> None:
        """As it was read; None where there was none."""
        for source, layer in self.pairs():
            same = (
                layer.bias is None
                if source.bias is None
                else layer.bias is not None and torch.equal(layer.bias.float(), source.bias)
            )
            require(same, "the bias is not that of the linear; pass it on as it is, None included")

    def test_what_it_makes_is_frozen(self) -> None:
        """No parameter of the layer may learn, and a backward leaves no gradient in it."""
        for source, layer in self.pairs():
            layer(numbers(2, source.in_features).requires_grad_()).sum().backward()
            learning = [
                name
                for name, parameter in layer.named_parameters()
                if parameter.requires_grad or parameter.grad is not None
            ]
            require(
                not learning, f"{', '.join(learning)} may learn; make it a buffer, or requires_grad=False"
            )

    def test_the_same_weight_gives_the_same_codes(self) -> None:
        """Bit for bit, whatever the global random state: adapters are bound to what the base becomes."""
        source = linear(64, 48, bias=True)
        states = []
        for seed in (1, 2):
            with torch.random.fork_rng():
                torch.manual_seed(seed)
                states.append(self.planned().build().quantize(frozen_copy(source), "up_proj").state_dict())
        different = bits_differ(*states)
        require(
            not different,
            f"quantizing the same weight twice differs in {different}; draw from no global random state",
        )

    def test_it_does_not_write_to_its_source(self) -> None:
        """Neither quantizing nor what is done with the layer later changes the linear that was given."""
        source = linear(64, 48, bias=True)
        before = {name: tensor.clone() for name, tensor in source.state_dict().items()}
        source.requires_grad_(False)
        layer = self.quantizer().quantize(source, "up_proj")
        layer(numbers(2, 48))
        layer.dequantize(out=torch.empty(64, 48))
        different = bits_differ(before, source.state_dict())
        require(not different, f"the source's {different} changed; work on a copy: weight.clone()")

    def test_dequantize_honours_out_and_dtype(self) -> None:
        """``dtype=`` is that of the result; ``out=`` is written and returned; nothing needs a gradient."""
        for _, layer in self.pairs():
            weight = layer.dequantize(dtype=torch.float32)
            require(
                not weight.requires_grad and weight.dtype == torch.float32,
                f"dequantize(dtype=float32) is {weight.dtype}, requires_grad {weight.requires_grad}; "
                "detach it and convert it",
            )
            out = torch.full_like(weight, float("nan"))
            answer = layer.dequantize(out=out)
            require(
                answer.data_ptr() == out.data_ptr() and torch.equal(out, weight),
                "dequantize(out=...) does not fill the tensor it is given and return it; end with return "
                "out.copy_(weight)",
            )
            half = layer.dequantize(dtype=torch.bfloat16)
            require(
                half.dtype == torch.bfloat16 and distance(half.float(), weight) < 1e-2,
                f"dequantize(dtype=bfloat16) is {half.dtype} and {distance(half.float(), weight):.2e} "
                "away from the float32 weight; convert the same weight",
            )

    def test_its_stock_configuration_is_plain(self) -> None:
        """What transformers is told are fields of ``BitsAndBytesConfig``, as JSON can hold them."""
        config = self._stock_configuration()
        defect = impurity(dict(config), "quantization_config()")
        require(not defect, defect)
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


def linear(rows: int, columns: int, *, bias: bool) -> nn.Linear:
    """A linear with normally distributed weights of deviation 0.02, the same at each call."""
    made = nn.Linear(columns, rows, bias=bias, device="meta").to_empty(device="cpu").requires_grad_(False)
    made.weight.copy_(0.02 * numbers(rows, columns, seed=1))
    if bias:
        made.bias.copy_(numbers(rows, seed=3))
    return made


def numbers(*shape: int, seed: int = 0) -> Tensor:
    """Normal numbers, without a trace in the global random state."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
