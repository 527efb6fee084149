"""Logits of some hidden states, on any architecture."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from edgelora.errors import EdgeloraWarning

LogitsOf = Callable[[Any, Any, Tensor], Tensor]
"""Logits (n, vocabulary) from a model, the kind of output of its backbone, and hidden states (n, width)."""


@dataclass(frozen=True, slots=True)
class WayToLogits:
    """How one model's logits are had from single hidden states."""

    logits_of: LogitsOf
    is_head: bool
    """Whether they are the memory its output head wrote: nothing caps or scales them afterwards."""


_ways: WeakKeyDictionary[nn.Module, WayToLogits | None] = WeakKeyDictionary()


def way_to_logits(model: Any, ids: Tensor) -> WayToLogits | None:
    """How to have the logits of some hidden states; None where there is no way but all logits at once.

    Found by trying on ``ids``, so that it holds for architectures nobody listed. Those are as many rows as
    the batch has, because adapted layers are routed to them already.
    """
    if model not in _ways:
        ways = (_logits_of_the_model, _logits_of_the_head)
        found = (way for each in ways if (way := _try(each, model, ids)) is not None)
        _ways[model] = next(found, None)
        if _ways[model] is None:
            warnings.warn(
                f"the logits of {type(model).__name__} do not follow from one hidden state each: its loss "
                "takes memory for all tokens x vocabulary; lower train.batch_size or train.max_length",
                EdgeloraWarning,
                stacklevel=3,
            )
    return _ways[model]


def _logits_of_the_model(model: Any, kind: Any, hidden: Tensor) -> Tensor:
    """By the model's own forward, with ``hidden`` in the place of what its backbone computes."""
    unused_ids = torch.zeros(1, len(hidden), dtype=torch.int64, device=hidden.device)
    with _returning(model.base_model, kind(last_hidden_state=hidden[None])):
        logits: Tensor = model(input_ids=unused_ids, use_cache=False).logits
    return logits[0]


def _logits_of_the_head(model: Any, kind: Any, hidden: Tensor) -> Tensor:
    logits: Tensor = model.get_output_embeddings()(hidden)
    return logits


@contextmanager
def _returning(backbone: nn.Module, output: Any) -> Iterator[None]:
    """Inside, ``backbone`` computes nothing and returns ``output``."""
    # Other libraries replace ``forward`` on the instance as well (accelerate): theirs is put back.
    replaced = vars(backbone).get("forward")
    vars(backbone)["forward"] = lambda *args, **options: output
    try:
        yield
    finally:
        if replaced is None:
            del vars(backbone)["forward"]
        else:
            vars(backbone)["forward"] = replaced


@torch.no_grad()
def _try(logits_of: LogitsOf, model: Any, ids: Tensor) -> WayToLogits | None:
    """The way, if it gives the logits of the model."""
    head = model.get_output_embeddings()
    if model.base_model is model or head is None:
        return None
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        output = model.base_model(input_ids=ids, use_cache=False)
        hidden = output.last_hidden_state.flatten(0, 1)
        logits = model(input_ids=ids, use_cache=False).logits.flatten(0, 1)
        # With a tolerance, a head that is followed by a weak capping would pass for the end of the model.
        with _noting_outputs(head) as computed:
            again = logits_of(model, type(output), hidden)
        if not torch.equal(again, logits):
            return None
        # The place of a hidden state in its chunk must not matter; a kernel may round by place.
        turned = logits_of(model, type(output), hidden.flip(0)).flip(0)
        if not torch.allclose(turned, logits, rtol=1e-2, atol=1e-3):
            return None
        return WayToLogits(logits_of, is_head=len(computed) == 1 and _is_still(again, *computed[0]))
    # A forward that wants more of its backbone's output than the last hidden state fails in its own manner.
    except (AttributeError, LookupError, TypeError, ValueError, RuntimeError):
        return None
    finally:
        for module in training:
            module.training = True


@contextmanager
def _noting_outputs(head: nn.Module) -> Iterator[list[tuple[Tensor, int]]]:
    """What ``head`` returns inside the block, with the versions these tensors have then."""
    noted: list[tuple[Tensor, int]] = []

    def note(module: nn.Module, inputs: Any, output: Tensor) -> None:
        noted.append((output, -1 if output.is_inference() else output._version))

    handle = head.register_forward_hook(note)
    try:
        yield noted
    finally:
        handle.remove()


def _is_still(tensor: Tensor, noted: Tensor, version: int) -> bool:
    """Whether ``tensor`` is the memory of ``noted``, and nothing wrote to it since."""
    same = tensor.untyped_storage()._cdata == noted.untyped_storage()._cdata
    return same and not tensor.is_inference() and tensor._version == version
