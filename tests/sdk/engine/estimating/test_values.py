"""Code that asks tensors without values for some runs as if every question were answered with yes."""

import pytest
import torch

from edgelora.engine.estimating.values import on_shapes
from edgelora.errors import ModelError


@pytest.fixture
def shapes(plan):
    with on_shapes("it cannot be tried", plan()), torch.device("meta"):
        yield torch.ones(3, 4, 5, requires_grad=True), torch.ones(3, 4, dtype=torch.bool)


@pytest.mark.parametrize(
    ("index", "shape"),
    [
        (lambda mask: mask, (12, 5)),
        (lambda mask: mask[:, 0], (3, 4, 5)),
        (lambda mask: (slice(None), mask[0], slice(2)), (3, 4, 2)),
        (lambda mask: mask[None].expand(5, 3, 4).permute(1, 2, 0), (60,)),
        (lambda mask: (torch.arange(2), torch.arange(2)), (2, 5)),
    ],
)
def test_a_mask_that_selects_selects_all(shapes, index, shape):
    tensor, mask = shapes
    chosen = tensor[index(mask)]
    assert chosen.shape == shape
    chosen.sum().backward()
    assert tensor.grad.shape == tensor.shape


def test_what_is_assigned_under_a_mask_is_assigned(shapes):
    tensor, mask = shapes
    tensor.detach()[mask] = 1.0
    assert len(mask.nonzero()) == 12


def test_outside_torch_refuses_as_ever(plan):
    with on_shapes("it cannot be tried", plan()):
        pass
    with pytest.raises(NotImplementedError):
        torch.ones(3, device="meta")[torch.ones(3, dtype=torch.bool, device="meta")]


def test_what_cannot_be_answered_is_one_error(plan):
    with (
        pytest.raises(ModelError, match="it cannot be tried: ") as caught,
        on_shapes("it cannot be tried", plan()),
    ):
        torch.ones(3, device="meta").unique()
    assert "--measure" in caught.value.fix
