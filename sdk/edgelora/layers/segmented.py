"""A linear whose rows may each have another low-rank adapter beside it."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from edgelora.layers.frozen import FrozenLinear
from edgelora.layers.rows import Assignment, Place, Product, every_row
from edgelora.protocols import Factors

SLOTS = 8
"""Adapters whose factors lie side by side. More in one product is hardly faster, and a bank has its memory
from its first adapter on."""
LARGE_ROW_BYTES = 400_000
"""Of a row's input and output: from here on it costs more to bring the rows of an adapter together than to
multiply each run of them where it stands. On one core with 1 MiB of cache, 64 rows of 16 adapters in turns, a
linear from 2,048 to 8,192 (together and each run, ms): 32 bfloat16 tokens 20.4 and 12.2, 16 of them 8.6 and
8.6; 16 float32 tokens 13.6 and 8.7. From 2,048 to 2,048, 32 bfloat16 tokens 5.3 and 6.1.
"""


class RowChoice:
    """The assignment that all segmented layers of a model follow."""

    def __init__(self) -> None:
        self.assignment: Assignment = every_row(None)


class FactorBank:
    """Factors of several adapters of one rank, side by side: A (slots, rank, in) and B (slots, out, rank).

    B has the adapter's scaling in it.
    """

    def __init__(self, rank: int, base: FrozenLinear, like: Tensor) -> None:
        self.A = like.new_empty(SLOTS, rank, base.in_features)
        self.B = like.new_empty(SLOTS, base.out_features, rank)
        self.taken = [False] * SLOTS


class SegmentedLinear(nn.Module):
    """y = base(x), and for rows of adapter a + scaling_a · B_a A_a x. Inference only: nothing here learns.

    Putting an adapter in copies its factors to a free slot of a bank; no module is built or moved. Rows of
    the base, and those of adapters that leave this linear alone, get the base's output bit for bit.

    Args:
        base: The frozen layer.
        choice: Which adapter the rows are of; shared by all layers of a model.
        like: An empty tensor of the dtype and on the device of the inputs.
    """

    def __init__(self, base: FrozenLinear, choice: RowChoice, like: Tensor) -> None:
        super().__init__()
        self.base = base
        self.choice = choice
        self.like = like
        self.banks: list[FactorBank] = []
        self.places: dict[str, Place] = {}

    @torch.no_grad()
    def put(self, adapter: str, factors: Factors) -> None:
        """Copy an adapter's factors, A (rank, in) and B (out, rank), of any dtype and device."""
        self.places[adapter] = self.hold(factors)

    @torch.no_grad()
    def hold(self, factors: Factors) -> Place:
        """Copy factors to a free slot, of no adapter yet; where that fails the layer is as it was."""
        place = self._free_place(len(factors.A))
        bank = self.banks[place.bank]
        bank.taken[place.slot] = True
        try:
            bank.A[place.slot].copy_(factors.A)
            # Rounded once, to the wider of both dtypes or from it.
            wide = torch.promote_types(factors.B.dtype, bank.B.dtype)
            torch.mul(factors.B.to(bank.B.device, wide), factors.scaling, out=bank.B[place.slot])
        except BaseException:
            self.release(place)
            raise
        return place

    def drop(self, adapter: str) -> None:
        """Forget an adapter; a bank that is empty then gives its memory back, if it is the last."""
        self.release(self.places.pop(adapter))

    def release(self, place: Place) -> None:
        """Free the slot of factors that `hold` copied."""
        self.banks[place.bank].taken[place.slot] = False
        while self.banks and not any(self.banks[-1].taken):
            self.banks.pop()

    def forward(self, x: Tensor) -> Tensor:
        """(rows, ..., in) -> (rows, ..., out), in the dtype of the input."""
        assignment = self.choice.assignment
        y: Tensor = self.base(x)
        adapts = not self.places.keys().isdisjoint(assignment.adapters)
        assignment.check(x, adapts=adapts)
        if not adapts:
            return y
        y = y.contiguous()
        if assignment.names is None:
            self._add(x, y, assignment.adapters[0])
            return y
        products = assignment.products(self.places)
        in_place = all(product.rows is not None for product in products)
        row_bytes = math.prod(x.shape[1:-1]) * (x.shape[-1] + y.shape[-1]) * x.element_size()
        if in_place or row_bytes < LARGE_ROW_BYTES:
            self._add_together(x, y, products)
        else:
            for adapter, start, stop in assignment.runs:
                if adapter in self.places:
                    self._add(x[start:stop], y[start:stop], adapter)
        return y

    def _add(self, x: Tensor, y: Tensor, adapter: str) -> None:
        """Add what one adapter makes of ``x`` to ``y``, in place."""
        bank, slot = self.places[adapter]
        A, B = self.banks[bank].A[slot], self.banks[bank].B[slot]
        _flat(y).addmm_(torch.mm(_flat(x), A.T), B.T)

    def _add_together(self, x: Tensor, y: Tensor, products: Iterable[Product]) -> None:
        """The same with one product for all adapters in a stretch of slots."""
        for product in products:
            bank = self.banks[product.bank]
            A, B = bank.A[product.slots].transpose(1, 2), bank.B[product.slots].transpose(1, 2)
            if product.rows is not None:
                own = y[product.rows].view(len(A), -1, y.shape[-1])
                own.baddbmm_(torch.bmm(x[product.rows].reshape(len(A), -1, x.shape[-1]), A), B)
                continue
            some = x.index_select(0, product.taken).view(len(A), -1, x.shape[-1])
            change = torch.bmm(torch.bmm(some, A), B).view(len(product.taken), *y.shape[1:])
            if product.kept is not None:
                change = change.index_select(0, product.kept)
            y.index_add_(0, product.given, change)

    def _free_place(self, rank: int) -> Place:
        for number, bank in enumerate(self.banks):
            if bank.A.shape[1] == rank and not all(bank.taken):
                return Place(number, bank.taken.index(False))
        self.banks.append(FactorBank(rank, self.base, self.like))
        return Place(len(self.banks) - 1, 0)


def _flat(x: Tensor) -> Tensor:
    """(..., n) as (rows, n), sharing memory where it is contiguous."""
    return x.reshape(-1, x.shape[-1])
