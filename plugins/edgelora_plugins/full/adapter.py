"""Full fine-tuning as an adapter of the model as a whole."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from edgelora.layers import FrozenEmbedding, FrozenLinear
from edgelora_plugins.full.options import FullOptions

TRAINABLE = (FrozenLinear, FrozenEmbedding)
"""What of the frozen layers is an ordinary one with a weight; subclasses keep it in codes or files."""


class AllWeights:
    """Every weight of the base learns, a tied one once, in the dtype the base computes in.

    What learns are copies: the base stays what it is. The adapter's state is all of them, by the base's
    names, as large as the base and exact; it is applied to the base it was trained from, which is verified as
    for any adapter.
    """

    def __init__(self, options: FullOptions) -> None:
        self.options = options

    def adapt(self, model: Any) -> Any:
        """Put a copy that learns in the place of each weight.

        Raises:
            ValueError: Some are quantized, or left in files.
        """
        for name, module in model.named_modules():
            if isinstance(module, TRAINABLE) and type(module) not in TRAINABLE:
                raise ValueError(
                    f"{name} is a {type(module).__name__}, whose weight is in codes or in a file, and does "
                    "not learn; take the unquantized base with quantizer: none"
                )
        learned: dict[nn.Parameter, nn.Parameter] = {}
        for module in model.modules():
            for name, weight in list(module.named_parameters(recurse=False)):
                if weight not in learned:
                    learned[weight] = nn.Parameter(weight.detach().clone())
                setattr(module, name, learned[weight])
        return model

    def adapter_state(self, model: Any) -> dict[str, Tensor]:
        """All weights by name; of those that are tied, the first."""
        return {name: weight.detach() for name, weight in model.named_parameters()}

    @torch.no_grad()
    def load_adapter_state(self, model: Any, tensors: Mapping[str, Tensor]) -> None:
        """Inverse of `adapter_state`."""
        for name, weight in model.named_parameters():
            weight.copy_(tensors[name])

    def folded(self, model: Any) -> Any:
        """It is a model of its own already."""
        return model
