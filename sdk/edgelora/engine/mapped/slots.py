"""Blocks of a mapped base copied to where they are computed, into memory that two of them share in turn."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from edgelora.engine.mapped.files import MappedFiles, Pages

SLOTS = 2
ALIGNMENT = 256
"""Bytes; where a tensor starts in a slot."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a mapped tensor stands in the model, and where it lies in a slot."""

    module: nn.Module
    name: str
    resting: Tensor
    """The tensor in its file, which stands there while its block is in no slot."""
    offset: int

    def bind(self, memory: Tensor) -> None:
        """Let the model see the copy in a slot."""
        self._stand(self._view(memory))

    def rest(self) -> None:
        """Let the model see the file again."""
        self._stand(self.resting)

    def copy_to(self, memory: Tensor) -> None:
        """Copy it into a slot, or into what is copied there as a whole."""
        self._view(memory).copy_(self.resting.detach())

    @property
    def end(self) -> int:
        """The byte after it in a slot."""
        return self.offset + self.resting.nbytes

    def _view(self, memory: Tensor) -> Tensor:
        return memory[self.offset : self.end].view(self.resting.dtype).view(self.resting.shape)

    def _stand(self, tensor: Tensor) -> None:
        if self.name in self.module._parameters:
            frozen = tensor if isinstance(tensor, nn.Parameter) else nn.Parameter(tensor, requires_grad=False)
            self.module._parameters[self.name] = frozen
        else:
            self.module._buffers[self.name] = tensor


class Slot:
    """Memory for one block on a device.

    Copies run in the background. To a GPU they go through pinned memory and on a stream of their own, after
    the work that still reads what was there, and before the work that reads what comes.
    """

    def __init__(self, size_bytes: int, device: torch.device) -> None:
        self.memory = torch.empty(size_bytes, dtype=torch.uint8, device=device)
        self.place = -1
        """Number of the block that is, or will be, in it."""
        self._copied: Future[None] | None = None

    def fetch(self, place: int, tensors: Sequence[Place], pages: Pages, worker: ThreadPoolExecutor) -> None:
        """Begin to copy a block."""
        self.place = place
        self._copied = worker.submit(self._copy, tensors, pages)

    def wait(self) -> None:
        """Until the block is there, as far as what is computed from now on can tell."""
        copied, self._copied = self._copied, None
        if copied is None:
            return
        try:
            copied.result()
        except BaseException:  # interrupted, too: what is in it then is no block
            self.place = -1
            raise

    def _copy(self, tensors: Sequence[Place], pages: Pages) -> None:
        for tensor in tensors:
            tensor.copy_to(self.memory)
        pages.release()


class GpuSlot(Slot):
    """A slot on a GPU."""

    def __init__(self, size_bytes: int, device: torch.device) -> None:
        super().__init__(size_bytes, device)
        self._staging = torch.empty(size_bytes, dtype=torch.uint8, pin_memory=True)
        self._stream = torch.cuda.Stream(device)
        self._read = torch.cuda.Event()
        self._written = torch.cuda.Event()

    def fetch(self, place: int, tensors: Sequence[Place], pages: Pages, worker: ThreadPoolExecutor) -> None:
        """Begin to copy a block, over what all work given to the GPU so far still reads."""
        self._read.record(torch.cuda.current_stream(self.memory.device))
        super().fetch(place, tensors, pages, worker)

    def wait(self) -> None:
        """Let the work that is given to the GPU from now on wait for the copy."""
        super().wait()
        torch.cuda.current_stream(self.memory.device).wait_event(self._written)

    def _copy(self, tensors: Sequence[Place], pages: Pages) -> None:
        self._written.synchronize()  # the copy before, which still may be read from the pinned memory
        for tensor in tensors:
            tensor.copy_to(self._staging)
        pages.release()
        size = tensors[-1].end if tensors else 0
        with torch.cuda.stream(self._stream):
            self._stream.wait_event(self._read)
            self.memory[:size].copy_(self._staging[:size], non_blocking=True)
            self._written.record(self._stream)


class MovedBlocks:
    """Holds blocks by copying their mapped tensors into slots on a device.

    While a block is in no slot, its tensors are those of the file: whoever reads a weight outside a forward
    pass finds it there.

    Args:
        blocks: In the order they are computed in; their tensors must be those that are mapped.
        files: Where the tensors lie.
        device: Where the blocks compute.
    """

    def __init__(self, blocks: Sequence[nn.Module], files: MappedFiles, device: torch.device) -> None:
        self.tensors = [_places(block, files) for block in blocks]
        self.pages = [files.pages([place.resting for place in places]) for places in self.tensors]
        size_bytes = max(places[-1].end if places else 0 for places in self.tensors)
        kind = GpuSlot if device.type == "cuda" else Slot
        self.slots = [kind(size_bytes, device) for _ in range(min(SLOTS, len(blocks)))]
        self._bound = -1
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="edgelora-blocks")

    def hold(self, place: int, following: int) -> None:
        """Copy, and let go of the block before; see `edgelora.engine.mapped.residency.Holder.hold`."""
        if self._bound >= 0:
            for tensor in self.tensors[self._bound]:
                tensor.rest()
        slot = next((slot for slot in self.slots if slot.place == place), None) or self._fetch(place, place)
        slot.wait()
        for tensor in self.tensors[place]:
            tensor.bind(slot.memory)
        self._bound = place
        if all(slot.place != following for slot in self.slots):
            self._fetch(following, place)

    def _fetch(self, wanted: int, kept: int) -> Slot:
        slot = next(slot for slot in self.slots if slot.place != kept)
        slot.wait()
        slot.fetch(wanted, self.tensors[wanted], self.pages[wanted], self._worker)
        return slot


def _places(block: nn.Module, files: MappedFiles) -> list[Place]:
    found: list[Place] = []
    end = 0
    for module in block.modules():
        for name, tensor in [*module._parameters.items(), *module._buffers.items()]:
            if tensor is not None and files.pages([tensor]).extents:
                found.append(Place(module, name, tensor, -(-end // ALIGNMENT) * ALIGNMENT))
                end = found[-1].end
    return found
