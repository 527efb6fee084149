"""Tensors that layers hand to later layers of the same forward.

block 0: q_proj ──► block 1: q_proj ──► block 2: q_proj      one `Relay`
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager

from torch import Tensor

from edgelora.errors import CombinationError

_Received = tuple[Tensor, ...]


class Relay(threading.local):
    """Hands each layer of a chain what the layers before it left, within one forward of the model.

    The layers are computed one after the other, each once in a forward. What one leaves is dropped when the
    last that reads it has read it: nothing of a forward stays, and none sees another's, whether the other is
    of another thread, not yet backward, or broke off. A copy of a relay, as of the model it is in, is empty.

    Args:
        names: Of the sites of the chain, in the order in which they are computed.
        reach: From how many layers before it a layer receives.
    """

    def __init__(self, names: Sequence[str], reach: int) -> None:
        self.names = tuple(names)
        self.reach = reach
        self._left: deque[Tensor] = deque(maxlen=reach)
        self._next = 0

    def __reduce__(self) -> tuple[type[Relay], tuple[Sequence[str], int]]:
        return type(self), (self.names, self.reach)

    def before(self, place: int) -> tuple[str, ...]:
        """Names of the sites a layer receives from, nearest first; what `CrossSite.neighbours` is to tell."""
        return tuple(reversed(self.names[max(0, place - self.reach) : place]))

    def exchange(self, place: int, own: Tensor) -> tuple[Tensor, ...]:
        """What the layers before left, nearest first; ``own`` is left for those behind. Once in a forward.

        With their gradients. In a checkpointed block that is computed again it is what was received the first
        time, and nothing is left.

        Args:
            place: Of the layer in the chain, from 0.
            own: (batch, tokens, ...), of the same tokens in all layers.

        Raises:
            CombinationError: The layer before it was not computed before it, or on other tokens.
        """
        if _block.replayed is not None:
            return next(_block.replayed)
        if place == 0:
            self._left.clear()
        elif place != self._next:
            raise CombinationError(
                f"{self.names[place]} reads what {self.names[place - 1]} was given, which was not computed "
                "just before it",
                fix="leave no block out of a forward; where blocks are checkpointed, let it be by edgelora, "
                "or with use_reentrant=False and context_fn=edgelora.layers.relay.checkpoint_contexts",
            )
        received = tuple(reversed(self._left))
        if received and received[0].shape[:-1] != own.shape[:-1]:
            raise CombinationError(
                f"{self.names[place]} is given {tuple(own.shape[:-1])} tokens, and {self.names[place - 1]} "
                f"before it {tuple(received[0].shape[:-1])}: what it reads is of other tokens",
                fix=f"leave {self.names[place]} out: exclude_modules",
            )
        self._left.append(own)
        self._next = place + 1
        if self._next == len(self.names):
            self._left.clear()
            self._next = 0
        if _block.received is not None:
            _block.received.append(tuple(map(_apart, received)))
        return received


def computed_again() -> bool:
    """Whether a checkpointed block is being computed for its backward pass: what is counted was counted."""
    return _block.replayed is not None


def checkpoint_contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """The contexts in which a checkpointed block is computed the first time, and again.

    The ``context_fn`` of `torch.utils.checkpoint.checkpoint` with ``use_reentrant=False``. What a block
    receives from a `Relay` is kept with the block: as long as its backward pass may come, and no longer.
    """
    received: list[_Received] = []
    return _FirstTime(received), _Again(received)


class _Block(threading.local):
    """What the block being computed in this thread receives: to be kept, or kept from the first time."""

    received: list[_Received] | None = None
    replayed: Iterator[_Received] | None = None


_block = _Block()


class _FirstTime(AbstractContextManager[None]):
    def __init__(self, received: list[_Received]) -> None:
        self.received = received

    def __enter__(self) -> None:
        self.around, _block.received = _block.received, self.received

    def __exit__(self, *raised: object) -> None:
        _block.received = self.around


class _Again(AbstractContextManager[None]):
    """May be entered more than once: a graph that is kept is computed again for each backward pass."""

    def __init__(self, received: list[_Received]) -> None:
        self.received = received

    def __enter__(self) -> None:
        self.around, _block.replayed = _block.replayed, iter(self.received)

    def __exit__(self, *raised: object) -> None:
        _block.replayed = self.around


def _apart(tensor: Tensor) -> Tensor:
    """The same numbers without the graph: the backward pass goes by the graph of the first time."""
    return tensor.detach().requires_grad_(tensor.requires_grad)
