"""Subspace similarity and amplification, on matrices whose answers are known."""

import math

import pytest
import torch

from edgelora.layers.subspaces import amplification, subspace_similarity
from edgelora.protocols import Factors


def rows(*vectors):
    return torch.tensor(vectors, dtype=torch.float64)


def test_a_subspace_is_similar_to_itself_and_to_what_holds_it():
    A = torch.randn(4, 32, generator=torch.Generator().manual_seed(0))
    phi = subspace_similarity(A, A)
    torch.testing.assert_close(phi.diagonal(), torch.ones(4, dtype=torch.float64))
    # A smaller subspace lies in a larger one whole.
    torch.testing.assert_close(phi, torch.ones(4, 4, dtype=torch.float64))
    mixed = torch.randn(4, 4, generator=torch.Generator().manual_seed(1)) @ A
    assert subspace_similarity(A, mixed)[3, 3] == pytest.approx(1.0)


def test_orthogonal_subspaces_are_not_similar():
    one, other = rows([1, 0, 0, 0], [0, 1, 0, 0]), rows([0, 0, 1, 0], [0, 0, 0, 1])
    assert not subspace_similarity(one, other).any()


def test_each_entry_compares_the_strongest_directions():
    # The strongest direction of one is the second of the other.
    one, other = rows([3, 0, 0], [0, 2, 0]), rows([0, 5, 0], [0, 0, 1])
    expected = [[0.0, 0.0], [1.0, 0.5]]
    torch.testing.assert_close(subspace_similarity(one, other), torch.tensor(expected, dtype=torch.float64))


def test_half_of_a_direction_at_an_angle_of_45_degrees_is_shared():
    phi = subspace_similarity(rows([1, 0]), rows([1, 1]))
    assert float(phi) == pytest.approx(0.5)


@pytest.mark.parametrize("seed", range(5))
def test_it_is_always_between_zero_and_one_and_symmetric(seed):
    numbers = torch.Generator().manual_seed(seed)
    A, other = torch.randn(8, 20, generator=numbers), torch.randn(5, 20, generator=numbers)
    phi = subspace_similarity(A, other)
    assert phi.shape == (8, 5) and phi.min() >= 0 and phi.max() <= 1
    torch.testing.assert_close(phi.T, subspace_similarity(other, A))
    torch.testing.assert_close(subspace_similarity(A, other, 3), phi[:3, :3])


def test_it_is_the_published_formula():
    numbers = torch.Generator().manual_seed(0)
    A, other = torch.randn(6, 20, generator=numbers), torch.randn(4, 20, generator=numbers)
    U, V = (torch.linalg.svd(each.double()).Vh.T for each in (A, other))
    for i in range(1, 7):
        for j in range(1, 5):
            expected = (U[:, :i].T @ V[:, :j]).norm() ** 2 / min(i, j)
            assert float(subspace_similarity(A, other)[i - 1, j - 1]) == pytest.approx(float(expected))


def test_directions_of_rows_without_strength_are_left_out():
    A = torch.cat([torch.randn(2, 16, generator=torch.Generator().manual_seed(0)), torch.zeros(3, 16)])
    assert subspace_similarity(A, A).shape == (2, 2)
    assert subspace_similarity(torch.zeros(2, 16), A).numel() == 0


def test_the_amplification_of_a_matrix_made_by_hand():
    # ΔW = 2 · 3 e₁ e₂ᵀ + 2 · 1 e₂ e₁ᵀ; W has 0.5 along the first and 1 along the second.
    A, B = rows([0, 3, 0, 0], [1, 0, 0, 0]), rows([1, 0], [0, 1], [0, 0])
    W = rows([7, 0.5, 0, 0], [1, 9, 0, 0], [0, 0, 4, 0])
    found = amplification(Factors(A, B, 2.0), W)
    assert found.rank == 2
    assert found.change == pytest.approx(math.hypot(6, 2))
    # Uᵀ W V holds all of the block, which U and V span: 7, 0.5, 1 and 9.
    assert found.along_change == pytest.approx(math.sqrt(49 + 0.25 + 1 + 81))
    assert found.factor == pytest.approx(found.change / found.along_change)
    strongest = amplification(Factors(A, B, 2.0), W, 1)
    assert (strongest.rank, strongest.change) == (1, pytest.approx(6.0))
    assert strongest.along_change == pytest.approx(0.5) and strongest.factor == pytest.approx(12.0)


def test_the_amplification_is_that_of_the_whole_product():
    numbers = torch.Generator().manual_seed(0)
    A, B = torch.randn(3, 24, generator=numbers), torch.randn(16, 3, generator=numbers)
    W = torch.randn(16, 24, generator=numbers)
    U, values, Vh = torch.linalg.svd(0.5 * B.double() @ A.double())
    along = (U[:, :3].T @ W.double() @ Vh[:3].T).norm()
    found = amplification(Factors(A, B, 0.5), W.bfloat16().float())
    assert found.change == pytest.approx(float(values[:3].norm()), rel=1e-5)
    assert found.along_change == pytest.approx(float(along), rel=1e-2)
    assert found.weight == pytest.approx(float(W.norm()), rel=1e-2)


def test_random_directions_hold_the_part_of_a_weight_that_is_told():
    numbers = torch.Generator().manual_seed(0)
    W = torch.randn(40, 60, generator=numbers, dtype=torch.float64)
    squares = []
    for _ in range(300):
        U = torch.linalg.qr(torch.randn(40, 2, generator=numbers, dtype=torch.float64)).Q
        V = torch.linalg.qr(torch.randn(60, 2, generator=numbers, dtype=torch.float64)).Q
        squares.append(float((U.T @ W @ V).square().sum()))
    told = amplification(Factors(torch.eye(60)[:2], torch.eye(40)[:, :2], 1.0), W).along_random
    assert math.sqrt(sum(squares) / len(squares)) == pytest.approx(told, rel=0.1)


def test_a_change_of_nothing_and_a_weight_of_nothing_have_no_factor():
    zero = amplification(Factors(torch.randn(2, 8), torch.zeros(6, 2), 1.0), torch.randn(6, 8))
    assert (zero.rank, zero.change, zero.factor) == (0, 0.0, None)
    empty = amplification(Factors(torch.randn(2, 8), torch.randn(6, 2), 1.0), torch.zeros(6, 8))
    assert empty.rank == 2 and empty.factor is None
