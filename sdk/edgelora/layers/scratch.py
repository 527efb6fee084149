"""One reused piece of memory for tensors that are needed for a moment only."""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence

import torch
from torch import Tensor


class _Buffers(threading.local):
    """The bytes of one thread: backward passes of several threads never share them."""

    def __init__(self) -> None:
        self.held: dict[torch.device, Tensor] = {}


_buffers = _Buffers()


def scratch(shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> Tensor:
    """A contiguous tensor with whatever was left in it, valid until the thread's next call.

    Whoever asks must have used it up before anything else that may ask: it is never returned to a caller,
    saved for a backward pass, or kept.

    On a CPU it is memory that stays, as large as the largest tensor asked for: the system maps large
    allocations afresh each time, which costs more than the work done in them. On the meta device, where
    steps are only rehearsed, it is held just so. A GPU has an allocator that keeps memory by itself.
    """
    if device.type not in ("cpu", "meta"):
        return torch.empty(shape, dtype=dtype, device=device)
    size_bytes = math.prod(shape) * dtype.itemsize
    held = _buffers.held.get(device)
    if held is None or len(held) < size_bytes:
        # Before the larger one is made, or both would be there at the same time.
        held = _buffers.held[device] = torch.empty(0)
        # Made under inference mode, it could not be written to in training.
        with torch.inference_mode(False):
            held = _buffers.held[device] = torch.empty(size_bytes, dtype=torch.uint8, device=device)
    return held[:size_bytes].view(dtype).view(*shape)


def release_scratch() -> None:
    """Give the thread's memory back; the next call takes it anew."""
    _buffers.held.clear()
