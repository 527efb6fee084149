"""A frozen linear and its low-rank product as one step: what is kept, and what is made."""

import copy

import pytest
import torch
from small_layers import Allocated, four_bit
from torch import nn
from torch.utils.checkpoint import checkpoint

from edgelora.layers import FrozenLinear
from edgelora.layers.fused import add_low_rank, is_plain
from edgelora.layers.mapped import MappedLinear
from edgelora.protocols import Factors

IN, OUT, RANK = 128, 256, 4


def factors(dtype=torch.float32, scaling=0.5):
    draw = torch.Generator().manual_seed(0)
    A, B = torch.randn(RANK, IN, generator=draw), torch.randn(OUT, RANK, generator=draw)
    return Factors(*(each.to(dtype).requires_grad_() for each in (A, B)), scaling)


def input_of(*shape, dtype=torch.float32, learns=True):
    return (
        torch.randn(*shape, IN, generator=torch.Generator().manual_seed(1)).to(dtype).requires_grad_(learns)
    )


def plain(base, x, factors):
    A, B, scaling = factors
    return base(x) + scaling * (x @ A.to(x.dtype).T @ B.to(x.dtype).T)


def kept(compute):
    """What is saved for the backward pass."""
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: saved.append(tensor) or tensor, lambda t: t):
        compute()
    return saved


@pytest.mark.parametrize("shape", [(), (1,), (5,), (2, 3), (2, 3, 4), (0,), (2, 0)])
def test_any_leading_dimensions_will_do(shape):
    base, parts, x = four_bit(OUT, IN), factors(), input_of(*shape)
    y, expected = add_low_rank(base, x, parts), plain(base, x, parts)
    assert y.shape == expected.shape
    torch.testing.assert_close(y, expected)
    inputs = [x, parts.A, parts.B]
    g = torch.randn_like(y)
    for found, wanted in zip(
        torch.autograd.grad(y, inputs, g), torch.autograd.grad(expected, inputs, g), strict=True
    ):
        torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_only_the_input_itself_and_the_factors_are_kept(dtype):
    base, parts, x = four_bit(OUT, IN, dtype), factors(), input_of(2, 3, dtype=dtype)
    saved = kept(lambda: add_low_rank(base, x, parts))
    assert [each.data_ptr() for each in saved] == [each.data_ptr() for each in (x, parts.A, parts.B)]


def test_factors_made_for_the_call_are_kept_in_the_dtype_of_the_input():
    base, parts, x = four_bit(OUT, IN, torch.bfloat16), factors(), input_of(2, dtype=torch.bfloat16)
    made = Factors(2 * parts.A, 2 * parts.B, parts.scaling)
    saved = kept(lambda: add_low_rank(base, x, made))
    assert {each.dtype for each in saved} == {torch.bfloat16}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_step_makes_no_tensor_of_the_weights_size(dtype):
    base, parts, x = four_bit(OUT, IN, dtype), factors(dtype), input_of(3, dtype=dtype)
    add_low_rank(base, x, parts).sum().backward()
    with Allocated() as seen:
        add_low_rank(base, x, parts).sum().backward()
    assert 0 < seen.largest < OUT * IN // 8


def test_nothing_is_dequantized_for_an_input_that_needs_no_gradient(monkeypatch):
    base, parts, x = four_bit(OUT, IN), factors(), input_of(3, learns=False)
    y = add_low_rank(base, x, parts)
    monkeypatch.setattr(type(base), "borrow", None)
    y.sum().backward()
    assert parts.A.grad is not None and parts.B.grad is not None and x.grad is None


@pytest.mark.parametrize("learning", ["A", "B"])
def test_a_factor_that_does_not_learn_gets_no_gradient(learning):
    parts, x = factors(), input_of(3)
    for name in {"A", "B"} - {learning}:
        getattr(parts, name).requires_grad_(False)
    add_low_rank(four_bit(OUT, IN), x, parts).sum().backward()
    assert {name for name in ("A", "B") if getattr(parts, name).grad is not None} == {learning}


def test_without_gradients_nothing_is_kept():
    base, parts, x = four_bit(OUT, IN), factors(), input_of(3)
    for context in (torch.no_grad(), torch.inference_mode()):
        with context:
            assert kept(lambda: add_low_rank(base, x, parts)) == []
            torch.testing.assert_close(add_low_rank(base, x, parts), plain(base, x, parts))


def test_gradients_of_gradients_are_refused_in_words():
    x = input_of(3)
    y = add_low_rank(four_bit(OUT, IN), x, factors()).square().sum()
    (gradient,) = torch.autograd.grad(y, x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


def test_checkpointing_gives_the_same_gradients():
    base, x = four_bit(OUT, IN), input_of(3)
    results = []
    for wrapped in (False, True):
        parts = factors()
        x.grad = None
        compute = lambda x, parts=parts: add_low_rank(base, x, parts).relu()  # noqa: E731
        y = checkpoint(compute, x, use_reentrant=False) if wrapped else compute(x)
        y.square().sum().backward()
        results.append((x.grad, parts.A.grad, parts.B.grad))
    assert all(torch.equal(one, other) for one, other in zip(*results, strict=True))


def test_a_gradient_that_is_not_laid_out_in_rows_is_taken_as_it_is():
    base, parts, x = four_bit(OUT, IN), factors(), input_of(2, 3)
    add_low_rank(base, x, parts).transpose(0, 2).sum().backward()
    found = x.grad
    x.grad = None
    plain(base, x, parts).sum().backward()
    torch.testing.assert_close(found, x.grad)


def test_a_base_is_plain_while_it_computes_its_product_and_nobody_listens():
    class More(FrozenLinear):
        def forward(self, input):
            return super().forward(input) + 1

    linear = nn.Linear(4, 4)
    assert is_plain(FrozenLinear.of(linear)) and is_plain(four_bit(8, 8))
    assert not is_plain(linear) and not is_plain(More.of(linear))
    listened = FrozenLinear.of(linear)
    handle = listened.register_forward_hook(lambda *_: None)
    assert not is_plain(listened)
    handle.remove()
    assert is_plain(listened)
    replaced = copy.copy(listened)
    replaced.forward = lambda input: input
    assert not is_plain(replaced)


def test_a_gradient_is_that_of_the_forward_it_was_written_for():
    class Tripled(MappedLinear):
        def forward(self, input):
            return 3 * super().forward(input)

    class Right(Tripled):
        def input_gradient(self, gradient):
            return 3 * super().input_gradient(gradient)

    class Named(Right):
        """Changes neither."""

    class Twice:
        def forward(self, input):
            return 2 * super().forward(input)

    class Mixed(Twice, MappedLinear):
        """Gets its forward from elsewhere."""

    made = {kind: kind(torch.ones(4, 4), dtype=torch.float32) for kind in (Tripled, Right, Named, Mixed)}
    assert {kind for kind, base in made.items() if is_plain(base)} == {Right, Named}
