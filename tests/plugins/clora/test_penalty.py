"""The forgetting penalty: its value, its gradient, and the memory it does without."""

import pytest
import torch
from small_layers import Allocated

from edgelora.protocols import Factors
from edgelora_plugins.clora import penalty
from edgelora_plugins.clora.penalty import overlap


def dense(matrix, scaling=1.0):
    """A matrix as a product of two."""
    return Factors(matrix, torch.eye(len(matrix)), scaling)


def factors(out_features, in_features, rank, scaling=1.0, seed=0):
    draw = torch.Generator().manual_seed(seed)
    A = torch.randn(rank, in_features, generator=draw)
    B = torch.randn(out_features, rank, generator=draw)
    return Factors(A.requires_grad_(), B.requires_grad_(), scaling)


def frozen(given):
    return Factors(given.A.detach(), given.B.detach(), given.scaling)


def naive(change, past):
    H = past.scaling * past.B @ past.A
    return (H.abs() * (change.scaling * change.B @ change.A)).square().sum()


def test_the_penalty_is_that_of_the_published_equation():
    past = dense(torch.tensor([[1.0, 2.0], [0.0, -1.0]]))
    change = dense(torch.tensor([[0.5, 0.0], [3.0, 2.0]]))
    assert float(overlap(change, past)) == 4.25


def test_its_gradient_is_the_closed_form():
    H, change = torch.randn(6, 5), torch.randn(6, 5, requires_grad=True)
    overlap(dense(change, 3.0), dense(H)).backward()
    # Of the product itself; that of s Δ is 2 H² ⊙ s Δ, and the chain rule gives another s.
    torch.testing.assert_close(change.grad, 2 * H**2 * 3.0 * change.detach() * 3.0)


@pytest.mark.parametrize("rows", [1, 3, 40])
def test_blocks_of_rows_give_what_the_whole_matrix_gives(monkeypatch, rows):
    monkeypatch.setattr(penalty, "PIECE", rows * 24)
    past = frozen(factors(40, 24, 7, 0.5, seed=1))
    one, other = factors(40, 24, 4, 2.0), factors(40, 24, 4, 2.0)
    found, expected = overlap(one, past), naive(other, past)
    (0.25 * found).backward()
    (0.25 * expected).backward()
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=0)
    torch.testing.assert_close(one.A.grad, other.A.grad, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(one.B.grad, other.B.grad, rtol=1e-4, atol=1e-4)


def test_no_matrix_of_the_size_of_the_weight_is_made(monkeypatch):
    monkeypatch.setattr(penalty, "PIECE", 4 * 512)
    change, past = factors(640, 512, 2), frozen(factors(640, 512, 3))
    with Allocated() as allocated:
        overlap(change, past).backward()
    assert allocated.largest <= 4 * 512
    assert change.A.grad.any() and change.B.grad.any()


def test_changes_of_other_weights_cost_nothing():
    H, change = torch.zeros(4, 6), torch.zeros(4, 6)
    H[:, :3], change[:, 3:] = torch.randn(4, 3), torch.randn(4, 3)
    change.requires_grad_()
    loss = overlap(dense(change), dense(H))
    loss.backward()
    assert float(loss.detach()) == 0 and not change.grad.any()


def test_factors_of_16_bits_get_gradients_of_16_bits():
    past, change = frozen(factors(8, 6, 2)), factors(8, 6, 2)
    half = Factors(*(each.detach().bfloat16().requires_grad_() for each in change[:2]), change.scaling)
    overlap(half, past).backward()
    exact = Factors(*(each.detach().float().requires_grad_() for each in half[:2]), change.scaling)
    overlap(exact, past).backward()
    assert half.A.grad.dtype == torch.bfloat16
    torch.testing.assert_close(half.A.grad.float(), exact.A.grad, rtol=1e-2, atol=1e-3)
