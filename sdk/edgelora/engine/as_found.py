"""A model as it was before somebody changed it."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn


class AsFound:
    """What a model is made of and how it is set, to be given back; nothing is copied.

    Args:
        model: As it is to be again.
    """

    def __init__(self, model: nn.Module) -> None:
        self._made = {
            module: (dict(module._modules), dict(module._parameters), dict(module._buffers), module.training)
            for module in model.modules()
        }
        self._learning = [(weight, weight.requires_grad) for weight in model.parameters()]

    @property
    def children(self) -> Mapping[nn.Module, Mapping[str, nn.Module | None]]:
        """The modules of each module."""
        return {module: children for module, (children, *_) in self._made.items()}

    def give_back(self) -> None:
        """Let each module be made of what it was made of, and learn or not as it did."""
        for module, (children, parameters, buffers, training) in self._made.items():
            module._modules, module._parameters = dict(children), dict(parameters)
            module._buffers = dict(buffers)
            module.training = training
        for weight, learns in self._learning:
            weight.requires_grad_(learns)
