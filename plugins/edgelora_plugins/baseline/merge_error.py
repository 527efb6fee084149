"""How exactly the adapter folds into the weights it stands beside."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from edgelora.capabilities import ApproximatelyLowRank
from edgelora.errors import ExportUnsupported
from edgelora.layers import FrozenEmbedding, FrozenLinear, frozen_part, merge_bias_into, merge_into, over
from edgelora.protocols import Evaluation, Measurement
from edgelora_plugins.baseline.approximation import approximation_errors
from edgelora_plugins.baseline.options import MergeErrorOptions


class MergeError:
    """Largest difference that folding a layer into one weight makes, relative to the change it folds.

    Where nothing was changed it is relative to the output. Computed in float32: what is measured is the
    method, not the rounding of a 16-bit model. An adapter that folds only approximately is measured as a
    whole, in each of the ways it names; see `approximation_errors`.
    """

    def __init__(self, options: MergeErrorOptions) -> None:
        pass

    @torch.no_grad()
    def __call__(self, run: Evaluation) -> dict[str, Measurement]:
        """``"<task>.merge_error"``; n counts layers. Nothing where a layer cannot be folded."""
        if not run.layers:
            run.tell("there is no adapter with layers to fold")
        if any(isinstance(layer, ApproximatelyLowRank) for layer in run.layers.values()):
            return approximation_errors(run)
        measurements = {}
        for number, task in enumerate(run.tasks if run.layers else ()):
            run.route(task)
            try:
                errors = [_error(layer, name, seed=number) for name, layer in run.layers.items()]
            except ExportUnsupported as error:
                run.tell(error.problem)
                return {}
            worst = max(errors)
            measurements[f"{task}.merge_error"] = Measurement(worst, len(errors), worst, worst)
        return measurements


def _error(layer: nn.Module, name: str, seed: int) -> float:
    base = frozen_part(layer)
    if isinstance(base, FrozenEmbedding):
        return _error_of_rows(layer, base, name, seed)
    weight = base.dequantize(dtype=torch.float32)
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(1, 8, base.in_features, generator=generator).to(weight.device)
    bias = None if base.bias is None else base.bias.float()
    plain = FrozenLinear(weight, bias, base.in_features, base.out_features)
    with over(layer, plain):
        computed = layer(x)
        folded = functional.linear(x, merge_into(layer, weight, name), merge_bias_into(layer, bias))
    change = (computed - plain(x)).norm()
    return float((folded - computed).norm() / (change if change else computed.norm()))


def _error_of_rows(layer: nn.Module, base: FrozenEmbedding, name: str, seed: int) -> float:
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(base.num_embeddings, (1, 8), generator=generator).to(base.weight.device)
    plain, computed = base(ids).float(), layer(ids).float()
    folded = merge_into(layer, base.weight.T.float(), name).T[ids]
    change = (computed - plain).norm()
    return float((folded - computed).norm() / (change if change else computed.norm()))
