"""A ledger of tensor memory: which storages live, which part of a run they belong to, and the peak."""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter
from torch.utils.flop_counter import flop_registry

Classify = Callable[[Tensor], str | None]
"""The part of a run a new tensor belongs to; None for that of the moment."""


class Ledger(TorchDispatchMode):
    """Inside it, every storage that an operation makes or touches is counted once, until it is freed.

    Views and operations in place make no storage. What a kernel allocates and frees within itself is not
    seen. Tensors need no values: those on the meta device count what real ones would take.

    Args:
        classify: Names the part of a new tensor.

    Attributes:
        live: Bytes that live now.
        peak: The most that lived at the same time.
        at_peak: Bytes of each part at that time.
        flops: Floating-point operations of the matrix products so far, two per multiplication and addition.
    """

    def __init__(self, classify: Classify = lambda tensor: None) -> None:
        super().__init__()
        self.classify = classify
        self.live = self.peak = self.flops = 0
        self.at_peak: dict[str, int] = {}
        self._parts: Counter[str] = Counter()
        self._known: dict[int, tuple[str, int]] = {}
        self._endings: dict[int, Any] = {}
        self._part = "activations"

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """What is made inside belongs to this part, unless its shape says otherwise."""
        before, self._part = self._part, name
        try:
            yield
        finally:
            self._part = before

    def claim(self, tensors: Iterable[Tensor], part: str) -> None:
        """Count these tensors as ``part``, whatever they were counted as before."""
        for tensor in tensors:
            key = tensor.untyped_storage()._cdata
            if key in self._known:
                counted_as, size = self._known[key]
                self._known[key] = part, size
                self._parts[counted_as] -= size
                self._parts[part] += size
            else:
                self._follow(tensor, part)

    def reset_peak(self) -> None:
        """Look for the peak anew, from what lives now."""
        self.peak, self.at_peak = self.live, dict(self._parts)

    def close(self) -> None:
        """Follow nothing any more; what was found stays."""
        for ending in self._endings.values():
            ending.detach()
        self._endings.clear()
        self._known.clear()

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """One operation."""
        kwargs = kwargs or {}
        # A buffer that is kept between steps was made before this ledger was opened.
        self._follow_all((args, kwargs))
        made = func(*args, **kwargs)
        self._follow_all(made)
        packet = getattr(func, "_overloadpacket", None)
        if packet in flop_registry:
            self.flops += flop_registry[packet](*args, **kwargs, out_val=made)
        return made

    def _follow_all(self, values: Any) -> None:
        for value in tree_iter(values):
            if isinstance(value, Tensor) and value.layout is torch.strided:
                key = value.untyped_storage()._cdata
                if key not in self._known:
                    self._follow(value, self.classify(value) or self._part)

    def _follow(self, tensor: Tensor, part: str) -> None:
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        self._known[key] = part, size
        self._endings[key] = weakref.finalize(storage, self._forget, key)
        self._parts[part] += size
        self.live += size
        if self.live > self.peak:
            self.reset_peak()

    def _forget(self, key: int) -> None:
        part, size = self._known.pop(key)
        del self._endings[key]
        self._parts[part] -= size
        self.live -= size
