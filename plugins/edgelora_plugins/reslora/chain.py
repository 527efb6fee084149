"""Chains: the layers that shortcuts lead through."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping
from typing import Any

from torch import nn


def chains(layers: Mapping[str, nn.Module]) -> list[dict[str, Any]]:
    """The layers in chains, each by site name in the order of the model.

    Layers are of one kind where their names differ in numbers alone: those of a vision tower, or of an
    encoder, are not before those of a decoder. As in the authors' code a layer follows the one of its kind
    before it only where they have factors of the same shapes.
    """
    kinds: dict[str, list[str]] = {}
    for name in layers:
        kinds.setdefault(re.sub(r"(?<![^.])\d+(?![^.])", "*", name), []).append(name)

    def shapes(name: str) -> tuple[Any, Any]:
        layer: Any = layers[name]
        return layer.lora_A.shape, layer.lora_B.shape

    return [
        {name: layers[name] for name in run}
        for names in kinds.values()
        for _, run in itertools.groupby(names, key=shapes)
    ]
