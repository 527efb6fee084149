"""What holds for every quantizer, tried on single linears."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from edgelora.layers import FrozenLinear
from edgelora.parts import Kind
from edgelora.testing.check import require
from edgelora.testing.compare import bits_differ, distance, frozen_copy
from edgelora.testing.quantizer_stock import StockChecks
from edgelora.testing.random_state import random_state_left_as_found
from edgelora.testing.setting import setting

SHAPES = ((64, 48), (32, 96), (24, 100))
"""(out, in): whole blocks, other blocks, and none at all."""


LARGE = (256, 256)
FLOAT_ERROR = 0.06
"""Of numbers with two bits of mantissa, of which the smallest floating-point formats keep no fewer."""


class QuantizerConformance(StockChecks):
    """A quantizer of an installed plugin.

    Attributes:
        largest_relative_error: Of a normally distributed weight, ‖W − Ŵ‖ / ‖W‖ (Frobenius); None for what
            the bits that are stored allow.
        tolerance: Relative, between a forward and the product with ``dequantize()``, both in float32.
    """

    kind: ClassVar[Kind] = "quantizer"
    largest_relative_error: ClassVar[float | None] = setting(None)
    tolerance: ClassVar[float] = setting(1e-5)

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
        """‖W − Ŵ‖ / ‖W‖ of normally distributed weights is at most what the bits that are stored allow.

        Or ``largest_relative_error``, where that is set.
        """
        errors = {
            source.in_features: distance(layer.dequantize(dtype=torch.float32), source.weight)
            for source, layer in self.pairs()
        }
        worst = max(errors, key=errors.__getitem__)
        bits = self._stored_bits()
        most = allowed_error(bits) if self.largest_relative_error is None else self.largest_relative_error
        told = f"relative error {errors[worst]:.4f}, {bits:.2f} bits a weight, bound {most:.3f}"
        self.note("the_weight_error_is_small", told)
        require(
            errors[worst] <= most,
            f"a weight with in_features {worst} is too far from what was quantized: {told}; fix the "
            "quantizer, or set largest_relative_error and say why",
        )

    def _stored_bits(self) -> float:
        """Per weight of a matrix that is large beside its tables."""
        rows, columns = LARGE
        layer = self.quantizer().quantize(linear(rows, columns, bias=False), "model.layers.0.up_proj")
        stored = sum(tensor.nbytes for name, tensor in layer.state_dict().items() if name != "bias")
        return 8 * stored / (rows * columns)

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

    def test_the_random_state_is_left_as_found(self) -> None:
        """The start of an adapter is drawn from it after the base was quantized."""
        source = frozen_copy(linear(64, 48, bias=True))
        x = numbers(2, 48)
        with random_state_left_as_found("quantize"):
            layer = self.quantizer().quantize(source, "up_proj")
        with random_state_left_as_found("restore"):
            self.quantizer().restore(layer.state_dict(), "up_proj", (64, 48), torch.float32)
        with random_state_left_as_found("the forward or dequantize"):
            layer(x)
            layer.dequantize()

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
            pieces = [(rows, some.clone()) for rows, some in layer.pieces(torch.float32, size=1)]
            require(
                all(torch.equal(some, weight[rows]) for rows, some in pieces)
                and sum(len(some) for _, some in pieces) == len(weight),
                "pieces() does not yield the rows of dequantize() from top to bottom; inherit it",
            )
            half = layer.dequantize(dtype=torch.bfloat16)
            require(
                half.dtype == torch.bfloat16 and distance(half.float(), weight) < 1e-2,
                f"dequantize(dtype=bfloat16) is {half.dtype} and {distance(half.float(), weight):.2e} "
                "away from the float32 weight; convert the same weight",
            )


def allowed_error(bits: float) -> float:
    """The largest relative error of normal weights with which ``bits`` are not wasted.

    No code of b bits does better than 2^-b (rate-distortion theory). NF4, integers by block or row and the
    best codes of 1 to 3 bits stay within three times that; formats with exponents keep a mantissa instead.
    Below one bit, and above all for zeros, whose error is 1, nothing is called sound.
    """
    return min(max(3 * 2.0**-bits, FLOAT_ERROR), 0.7)


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
