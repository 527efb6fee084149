"""Parts that do nothing of their own: authors subclass them and write only what their method changes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from edgelora.layers.frozen import FrozenLinear
from edgelora.layers.low_rank import LowRankLinear
from edgelora.layers.stored import Shapes, require_shapes
from edgelora.options import AdapterOptions, Options
from edgelora.protocols import Measurement, Site, TrainingRun


class SiteAdapter:
    """Puts one ``layer`` around each site; sites do not know each other.

    A method whose layer takes what `LowRankLinear` takes sets ``layer`` and is done; others override `wrap`.
    """

    layer: ClassVar[type[nn.Module]] = LowRankLinear

    def __init__(self, options: AdapterOptions) -> None:
        self.options = options

    def wrap(self, base: FrozenLinear, site: Site) -> nn.Module:
        """``layer(base, site, dropout=...)``."""
        return self.layer(base, site, dropout=self.options.dropout)

    def link(self, layers: Mapping[str, nn.Module]) -> None:
        """Nothing to link."""


class WeightQuantizer:
    """Keeps a weight as named tensors, and the bias as it is.

    Subclasses make the tensors in `codes`, say in `kept` what they are, and make a layer in `layer_of`.
    """

    def __init__(self, options: Any) -> None:
        self.options = options

    @property
    def compute_dtype(self) -> torch.dtype | None:
        """Of the products, by the option of that name; None takes that of the activations."""
        name = self.options.compute_dtype
        return None if name == "auto" else getattr(torch, name)

    def quantize(self, linear: nn.Linear, name: str) -> FrozenLinear:
        """The layer of the weight's tensors; the bias stays as it is."""
        weight = linear.weight.detach()
        tensors = self.codes(weight)
        if linear.bias is not None:
            tensors["bias"] = linear.bias.detach()
        return self.layer_of(tensors, (linear.out_features, linear.in_features), weight.dtype)

    def restore(
        self, tensors: Mapping[str, Tensor], name: str, shape: tuple[int, int], dtype: torch.dtype
    ) -> FrozenLinear:
        """The layer as it was quantized.

        Raises:
            ModelError: A tensor is missing, left over, or of another shape or dtype.
        """
        require_shapes(tensors, self.kept(shape), name)
        return self.layer_of(tensors, shape, dtype)

    def codes(self, weight: Tensor) -> dict[str, Tensor]:
        """The tensors that stand for a weight (out, in)."""
        raise NotImplementedError

    def kept(self, shape: tuple[int, int]) -> Shapes:
        """Shapes and dtypes of the tensors for a weight of ``shape``, (out, in)."""
        raise NotImplementedError

    def layer_of(
        self, tensors: Mapping[str, Tensor], shape: tuple[int, int], dtype: torch.dtype
    ) -> FrozenLinear:
        """The layer of these tensors and a ``bias``, if there is one; ``dtype`` is that of the weight."""
        raise NotImplementedError


class PassiveScheduler:
    """A rank scheduler that does nothing at any step and keeps no state."""

    def __init__(self, options: Options) -> None:
        self.options = options

    def attach(self, layers: Mapping[str, nn.Module], optimizer: Optimizer, run: TrainingRun) -> None:
        """Nothing to prepare."""

    def before_forward(self, step: int) -> None:
        """Nothing to do."""

    def before_update(self, step: int) -> None:
        """Nothing to do."""

    def after_update(self, step: int) -> None:
        """Nothing to do."""

    def rank_pattern(self) -> dict[str, int]:
        """No rank was changed."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """Empty."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing to load."""


class SummingCombiner:
    """L = Σ task losses + Σ auxiliary losses; learns nothing and keeps no state."""

    def __init__(self, options: Options) -> None:
        self.options = options

    def attach(self, run: TrainingRun) -> None:
        """Any tasks will do."""

    def __call__(self, losses: Mapping[str, Tensor], step: int) -> Tensor:
        """Scalar sum."""
        return torch.stack(list(losses.values())).sum()

    def after_evaluation(self, measurements: Mapping[str, Measurement]) -> None:
        """Nothing to learn from."""

    def parameters(self) -> Iterable[nn.Parameter]:
        """None."""
        return ()

    def state_dict(self) -> dict[str, Any]:
        """Empty."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing to load."""
