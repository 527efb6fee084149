from collections.abc import Iterator, Mapping
from functools import partial
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from edgelora.layers.authoring import SiteAdapter
from edgelora.protocols import Batch

from .options import EvaOptions


class EvaAdapter(SiteAdapter):
    """A starts at the first r right singular vectors of the inputs of its site, equation 3; B at zero.

    They are those of X, (tokens, in), over all batches: the eigenvectors of Σ xᵀx, which is summed here where
    the paper updates a truncated decomposition batch by batch.
    """

    options: EvaOptions

    def calibrate(self, model: Any, layers: Mapping[str, nn.Module], batches: Iterator[Batch]) -> None:
        moments: dict[str, Tensor] = {}
        was_training = model.training
        model.eval()
        with torch.no_grad():
            for batch in islice(batches, self.options.batches):
                observe = partial(_add, moments, batch.attention_mask.bool())
                hooks = [each.register_forward_pre_hook(partial(observe, n)) for n, each in layers.items()]
                model(input_ids=batch.input_ids, attention_mask=batch.attention_mask, use_cache=False)
                for hook in hooks:
                    hook.remove()
            for name, moment in moments.items():
                directions = torch.linalg.eigh(moment).eigenvectors.T.flip(0)
                layer: Any = layers[name]
                layer.lora_A.copy_(directions[: layer.rank])
        model.train(was_training)


def _add(moments: dict[str, Tensor], kept: Tensor, name: str, layer: nn.Module, inputs: Any) -> None:
    """Add the tokens of a forward that are no padding to the second moment (in, in) of a site."""
    x = inputs[0][kept].float()
    moments[name] = moments[name] + x.T @ x if name in moments else x.T @ x
