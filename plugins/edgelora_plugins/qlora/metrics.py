"""What quantization costs and saves."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn

from edgelora import Options
from edgelora.intervals import mean_interval
from edgelora.layers import FrozenLinear
from edgelora.protocols import Evaluation, Measurement


class QuantizationCost:
    """Bits per weight and the relative error ‖W − Ŵ‖ / ‖W‖ (Frobenius) of the frozen linears."""

    def __init__(self, options: Options) -> None:
        pass

    @torch.no_grad()
    def __call__(self, run: Evaluation) -> dict[str, Measurement]:
        """``"quantization.bits_per_parameter"``, and ``"quantization.relative_error"`` as a mean of linears.

        The error needs the files of the base; where there are none, it is left out.
        """
        linears = dict(_frozen_linears(run.model, run.layers))
        if not linears:
            run.tell("the base has no linears that a quantizer could take")
            return {}
        weights = sum(linear.in_features * linear.out_features for linear in linears.values())
        bits = 8 * sum(map(_stored_bytes, linears.values())) / weights
        found = {"quantization.bits_per_parameter": Measurement(bits, weights, bits, bits)}
        if run.source is not None:
            errors = torch.stack(
                [_relative_error(linear, run.source(name)) for name, linear in linears.items()]
            ).double()
            mean, spread = float(errors.mean()), float(errors.std()) if len(errors) > 1 else 0.0
            low, high = mean_interval(mean, spread, len(errors))
            found["quantization.relative_error"] = Measurement(mean, len(errors), max(low, 0.0), high)
        return found


def _frozen_linears(model: Any, layers: Mapping[str, nn.Module]) -> Iterator[tuple[str, FrozenLinear]]:
    """Frozen linears by the name they have in the bare base, less the output head: no quantizer takes it."""
    head = model.get_output_embeddings()
    sites = {part: site for site, layer in layers.items() for part in layer.modules()}
    for name, module in model.named_modules():
        if isinstance(module, FrozenLinear) and module is not head:
            yield sites.get(module, name), module


def _stored_bytes(linear: FrozenLinear) -> int:
    """Of the weight in the form it is kept, without the bias."""
    return sum(tensor.nbytes for name, tensor in linear.state_dict().items() if name != "bias")


def _relative_error(linear: FrozenLinear, source: torch.Tensor) -> torch.Tensor:
    lost, whole = torch.zeros(2, dtype=torch.float64)
    for rows, some in linear.pieces(torch.float32):
        weight = source[rows].float()
        lost += (some.cpu() - weight).norm().double().square()
        whole += weight.norm().double().square()
    return (lost / whole).sqrt()
