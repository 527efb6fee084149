"""Which blocks of a model are in memory: the one that is computed, and the one that comes next."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import nn

from edgelora.engine.mapped.files import MappedFiles, Pages
from edgelora.layers.fused import Onlooker


class Holder(Protocol):
    """Has blocks in memory."""

    def hold(self, place: int, following: int) -> None:
        """Have block ``place`` ready when this returns, fetch ``following``, and let go of all others."""
        ...


class Residency:
    """Tells a holder which block is entered, and which is likely to be entered next.

    A block is entered when it, or a part of it, begins to compute: forward in order, and in the backward pass
    in reverse order, because each checkpointed block is computed again before its gradients are. The guess of
    the next block only saves time: whatever the order, a block is held before it computes.

    Args:
        blocks: In the order they are computed in.
        holder: Has them in memory.
    """

    def __init__(self, blocks: Sequence[nn.Module], holder: Holder) -> None:
        self.holder = holder
        self.last = len(blocks) - 1
        self.place = -1
        for place, block in enumerate(blocks):
            enter = _Enter(self, place)
            # Gradient checkpointing of transformers recomputes what is in a block, not the call of the block.
            for part in (block, *block.children()):
                part.register_forward_pre_hook(enter)

    def enter(self, place: int) -> None:
        """Have a block held that is about to compute."""
        if place != self.place:
            following, self.place = self._following(place), -1  # none, until this one is held
            self.holder.hold(place, following)
            self.place = place

    def _following(self, place: int) -> int:
        backwards = place == self.place - 1
        if backwards:
            return place - 1 if place else 1
        if place < self.last:
            return place + 1
        # At the end a training step turns round, and a step of generation starts over.
        return place - 1 if torch.is_grad_enabled() and self.last else 0

    def __deepcopy__(self, memo: dict[int, Any]) -> Residency:
        return Residency((), _Nothing())  # a copy of the model has its tensors in memory

    def __reduce__(self) -> tuple[type[Residency], tuple[tuple[()], _Nothing]]:
        return Residency, ((), _Nothing())


@dataclass(frozen=True, slots=True)
class _Enter(Onlooker):
    """Goes before whatever of a block computes first; often a linear that an adapter wraps."""

    residency: Residency
    place: int

    def __call__(self, module: nn.Module, inputs: Any) -> None:
        self.residency.enter(self.place)


class _Nothing:
    def hold(self, place: int, following: int) -> None:
        pass


class MappedBlocks:
    """Holds blocks by advice to the system about the pages of their mapped tensors.

    Args:
        blocks: In the order they are computed in; their tensors must be those that are mapped.
        files: Where the tensors lie.
    """

    def __init__(self, blocks: Sequence[nn.Module], files: MappedFiles) -> None:
        self.pages: list[Pages] = [files.pages([*block.parameters(), *block.buffers()]) for block in blocks]

    def hold(self, place: int, following: int) -> None:
        """Read ahead, and give back; see `Holder.hold`. What is not there is read as it is looked at."""
        for number, pages in enumerate(self.pages):
            if number not in (place, following):
                pages.release()
        self.pages[following].ahead()
