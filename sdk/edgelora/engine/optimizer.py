"""Optimizers and learning-rate schedules."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from edgelora.capabilities import ParameterGroups
from edgelora.engine.inject import trainable_parameters
from edgelora.engine.whole_model import modules_of
from edgelora.errors import DependencyMissing
from edgelora.protocols import LossCombiner
from edgelora.recipe import TrainSettings


def make_optimizer(
    layers: Mapping[str, nn.Module], combiner: LossCombiner, settings: TrainSettings
) -> Optimizer:
    """An AdamW over the adapter, one group per site (``group["site"]``), and the combiner's weights.

    An adapter of the model as a whole has one group, of the site ``""``. A layer with
    `ParameterGroups` gets one group for each of its own.

    Raises:
        DependencyMissing: The recipe wants an 8-bit or paged optimizer and bitsandbytes is not installed.
    """
    groups: list[dict[str, Any]] = []
    for site, layer in modules_of(layers).items():
        groups += _groups_of(site, layer, settings)
    if learned := list(combiner.parameters()):
        groups.append({"params": learned, "site": "", "weight_decay": 0.0})
    arguments: dict[str, Any] = {
        "lr": settings.learning_rate,
        "betas": settings.betas,
        "weight_decay": settings.weight_decay,
    }
    if settings.optimizer == "adamw":
        return torch.optim.AdamW(groups, **arguments)
    return _small_optimizers(settings.optimizer)[settings.optimizer](groups, **arguments)


def clipped_parameters(layers: Mapping[str, nn.Module], combiner: LossCombiner) -> list[nn.Parameter]:
    """Everything that learns, whose gradients share one norm: the adapter, then the combiner's weights."""
    return [*trainable_parameters(layers).values(), *combiner.parameters()]


def _groups_of(site: str, layer: nn.Module, settings: TrainSettings) -> list[dict[str, Any]]:
    if isinstance(layer, ParameterGroups):
        return [
            {
                "params": group["params"],
                "site": site,
                "lr": settings.learning_rate * group.get("learning_rate_multiplier", 1.0),
            }
            for group in layer.parameter_groups()
        ]
    parameters = [parameter for parameter in layer.parameters() if parameter.requires_grad]
    return [{"params": parameters, "site": site}] if parameters else []


def _small_optimizers(name: str) -> dict[str, Callable[..., Optimizer]]:
    try:
        from edgelora.layers.nf4 import OPTIMIZERS
    except ImportError as error:
        raise DependencyMissing(
            f"optimizer {name!r} needs bitsandbytes, which is not installed",
            fix="pip install 'edgelora[train]', or set train.optimizer to adamw",
        ) from error
    return OPTIMIZERS


def make_schedule(optimizer: Optimizer, settings: TrainSettings, total_steps: int) -> LambdaLR:
    """Linear warmup, then constant, linear to zero, or half a cosine to zero."""
    warmup = math.ceil(settings.warmup * total_steps)

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        if settings.schedule == "constant":
            return 1.0
        done = (step - warmup) / max(1, total_steps - warmup)
        return 1 - done if settings.schedule == "linear" else 0.5 * (1 + math.cos(math.pi * done))

    return LambdaLR(optimizer, factor)
