"""A model as its training began, for measurements of what it has lost since."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial

from torch import Tensor, nn
from torch.nn import functional

from edgelora.layers.embedding import frozen_part
from edgelora.protocols import Factors


@contextmanager
def as_started(layers: Mapping[str, nn.Module], past: Mapping[str, tuple[Factors, ...]]) -> Iterator[None]:
    """Inside, layers compute base and the adapters that came before, and nothing that was learned since.

    Args:
        layers: By site name, each with what it wraps in it.
        past: `edgelora.protocols.Evaluation.past`.
    """
    found = {site: vars(layer).get("forward") for site, layer in layers.items()}
    for site, layer in layers.items():
        layer.forward = partial(_start, frozen_part(layer), past.get(site, ()))
    try:
        yield
    finally:
        for site, layer in layers.items():
            del layer.forward
            if found[site] is not None:
                layer.forward = found[site]


def _start(base: nn.Module, past: tuple[Factors, ...], x: Tensor) -> Tensor:
    y: Tensor = base(x)
    for A, B, scaling in past:
        low = functional.linear(x, A.to(x)) * scaling
        y = y + functional.linear(low, B.to(x))
    return y
