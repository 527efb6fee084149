"""Adapters by name over one base, and which of them each row is of."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from threading import RLock
from typing import Any

import torch

from edgelora.engine.inject import replace_module
from edgelora.engine.serving.base import ServedBase
from edgelora.engine.serving.factors import read_factors
from edgelora.errors import AdapterNotFound, PlanError, WrongBase
from edgelora.layers.generate import continue_rows
from edgelora.layers.rows import Assignment, Place, assign_rows, every_row
from edgelora.layers.segmented import RowChoice, SegmentedLinear
from edgelora.manifest import Manifest
from edgelora.protocols import Factors
from edgelora.registry import Registry
from edgelora.signing import trusted_weights
from edgelora.transfer import locate_adapter


@dataclass(frozen=True, slots=True)
class ServedAdapter:
    """An adapter in place.

    Attributes:
        reference: What it was added by.
        manifest: Of its directory.
        task: The one task it answers, of an adapter that computes by task.
        ranks: By site.
        size_bytes: Memory its factors take.
    """

    reference: str
    manifest: Manifest
    task: str | None
    ranks: dict[str, int]
    size_bytes: int


class AdapterSet:
    """Several adapters over one loaded base; each row of a batch may be of another one.

    Linears are wrapped once, when the first adapter comes that adapts them. From then on adding an adapter
    puts its factors in place and removing one drops them; no module is built or moved, and nothing of the
    base changes. Works for every adapter whose layers are `Additive` and `LowRank`.

    Until rows are assigned the model is the bare base::

        adapters = load_adapters({"pumps": "acme/pumps@1.0.0", "valves": "./valves"})
        with adapters.rows(["pumps", None, "valves"]):
            adapters.model.generate(**three_prompts)

    Threads take turns: a block of `rows` holds the set until it ends, and `add`, `replace`, `remove` and
    `switch` of other threads wait for it. A thread that computes outside of such a block has to see to it
    itself that nobody switches meanwhile.

    Args:
        base: What the adapters work over; see `edgelora.engine.serving.open_base`.
        registry: The installed plugins.
    """

    def __init__(self, base: ServedBase, registry: Registry) -> None:
        self.base = base
        self.registry = registry
        self._choice = RowChoice()
        self._like = torch.empty(0, dtype=base.dtype, device=base.device)
        self._layers: dict[str, SegmentedLinear] = {}
        self._adapters: dict[str, ServedAdapter] = {}
        self._outer: list[Assignment] = []  # what the blocks of rows that are entered go back to
        self._turn = RLock()

    @property
    def model(self) -> Any:
        """The transformers model: call it, or its ``generate``, as ever."""
        return self.base.model

    @property
    def tokenizer(self) -> Any:
        """The base's tokenizer."""
        return self.base.tokenizer

    @property
    def names(self) -> tuple[str, ...]:
        """Of the adapters, in the order they were added."""
        return tuple(self._adapters)

    def __getitem__(self, name: str) -> ServedAdapter:
        """The adapter of this name.

        Raises:
            AdapterNotFound: There is none.
        """
        if name not in self._adapters:
            loaded = f"loaded are: {', '.join(self._adapters)}" if self._adapters else "none is loaded"
            raise AdapterNotFound(f"no adapter is loaded as {name!r}", fix=f"{loaded}; add it first")
        return self._adapters[name]

    def add(self, name: str, reference: str, *, task: str | None = None) -> ServedAdapter:
        """Verify an adapter, hold it against the base, and put it in place.

        Args:
            name: To call it by in `rows` and `switch`.
            reference: An adapter directory, a pulled adapter, or a reference into a store.
            task: Of an adapter that computes by task: which one it answers here. Added once for each task
                under different names, such an adapter serves rows of all of them.

        Raises:
            PlanError: The name is taken, or the adapter has no such task, or several and none is named.
            WrongBase: It was trained on another base, or over another quantizer.
            CombinationError: It cannot share a model: it is no low-rank product beside each linear.
            NoEffect: It changes nothing.
            EdgeloraError: It is not sound, or not signed by whom the trust policy asks for.
        """
        self._check_free(name)
        adapter, factors = self._read(name, reference, task)
        with self._turn:
            self._check_free(name)
            self._put(name, adapter, factors)
        return adapter

    def replace(self, name: str, reference: str, *, task: str | None = None) -> ServedAdapter:
        """Put another adapter in the place of one, at once: rows of this name are of the new one from now on.

        Where the new one is refused, the old one stays.

        Raises:
            AdapterNotFound: No adapter is loaded under this name.
            EdgeloraError: What `add` raises.
        """
        _ = self[name]
        adapter, factors = self._read(name, reference, task)
        with self._turn:
            _ = self[name]
            self._put(name, adapter, factors)
        return adapter

    def remove(self, name: str) -> None:
        """Take an adapter out; its memory is free once nobody holds it.

        Raises:
            AdapterNotFound: No adapter is loaded under this name.
            PlanError: Rows are of it at this moment, or will be when a block of rows ends.
        """
        with self._turn:
            _ = self[name]
            if any(name in each.adapters for each in (*self._outer, self._choice.assignment)):
                raise PlanError(
                    f"adapter {name!r} is in use",
                    fix="switch to another one first, or leave the block of rows",
                )
            self._drop(name)

    def switch(self, name: str | None) -> None:
        """Let every row be of one adapter from now on, or of the base alone.

        Raises:
            AdapterNotFound: No adapter is loaded under this name.
        """
        with self._turn:
            if name is not None:
                _ = self[name]
            self._choice.assignment = every_row(name)

    @contextmanager
    def rows(self, names: Sequence[str | None]) -> Iterator[None]:
        """Inside the block, row i of a batch is of ``names[i]``; None leaves a row to the base.

        Rows of one adapter that stand side by side are quickest. Where generation makes several rows of one
        prompt, as a beam search does, each has its name, in the order of the rows.

        Raises:
            AdapterNotFound: An adapter is not loaded.
        """
        names = tuple(names)
        with self._turn:
            for name in dict.fromkeys(names):
                if name is not None:
                    _ = self[name]
            self._outer.append(self._choice.assignment)
            self._choice.assignment = assign_rows(names, self.base.device)
            try:
                yield
            finally:
                self._choice.assignment = self._outer.pop()

    @torch.inference_mode()
    def generate(
        self, prompts: Sequence[str], rows: Sequence[str | None], *, max_new_tokens: int, batch_size: int = 64
    ) -> list[str]:
        """Continue each prompt by its own adapter with the likeliest token until the end of sequence.

        Args:
            prompts: Already rendered: no special token is added.
            rows: The adapter of each prompt; None for the base alone.
            max_new_tokens: Per prompt.
            batch_size: Prompts generated at the same time, whatever their adapters.

        Returns:
            The continuations in the order of the prompts, without special tokens.

        Raises:
            AdapterNotFound: An adapter is not loaded.
        """
        encoded = self.tokenizer(list(prompts), add_special_tokens=False)["input_ids"] if prompts else []
        answers = [""] * len(encoded)
        turn = {name: number for number, name in enumerate(self.names, start=1)}
        by_length = sorted(range(len(encoded)), key=lambda index: len(encoded[index]))
        for start in range(0, len(by_length), batch_size):
            # Side by side in the batch, so that no layer has to bring the rows of an adapter together.
            chosen = sorted(by_length[start : start + batch_size], key=lambda index: turn.get(rows[index], 0))
            with self.rows([rows[index] for index in chosen]):
                texts = continue_rows(
                    self.model, self.tokenizer, [encoded[index] for index in chosen], max_new_tokens
                )
            for index, text in zip(chosen, texts, strict=True):
                answers[index] = text
        return answers

    def _check_free(self, name: str) -> None:
        if name in self._adapters:
            raise PlanError(
                f"an adapter is loaded as {name!r} already",
                fix="give this one another name, or replace that one: replace(name, reference)",
            )

    def _read(self, name: str, reference: str, task: str | None) -> tuple[ServedAdapter, dict[str, Factors]]:
        folder = locate_adapter(reference)
        manifest, weights = trusted_weights(folder)
        try:
            plan = self.base.plan_for(manifest, self.registry)
        except WrongBase as error:
            if manifest.base.tensors_digest == self.base.identity.tensors_digest:
                raise  # another quantizer, configuration or tokenizer: it says which
            # A copy, for other threads add and remove meanwhile.
            loaded = self._adapters.copy()
            others = [f"{other!r} of {each.manifest.base.repo}" for other, each in loaded.items()]
            raise WrongBase(
                f"adapter {name!r} ({reference}) is of {manifest.base.repo}, and loaded here is "
                f"{', '.join(others) or self.base.place}: {error.problem}",
                fix="load adapters of one base together, and this one apart",
            ) from error
        factors = read_factors(manifest, weights, plan, self.base, task=task)
        ranks = {site: len(each.A) for site, each in factors.items()}
        numbers = sum(each.A.numel() + each.B.numel() for each in factors.values())
        size = numbers * self.base.dtype.itemsize
        return ServedAdapter(reference, manifest, task, ranks, size), factors

    def _put(self, name: str, adapter: ServedAdapter, factors: dict[str, Factors]) -> None:
        """Put it in place whole or not at all; another one of this name gives way once all is there."""
        held: dict[str, Place] = {}
        try:
            for site, each in factors.items():
                if site not in self._layers:
                    layer = SegmentedLinear(self.base.linears[site], self._choice, self._like)
                    replace_module(self.model, self.model.get_submodule(site), layer)
                    self._layers[site] = layer
                held[site] = self._layers[site].hold(each)
        except BaseException:
            for site, place in held.items():
                self._layers[site].release(place)
            raise
        if name in self._adapters:
            self._drop(name)
        for site, place in held.items():
            self._layers[site].places[name] = place
        self._adapters[name] = adapter

    def _drop(self, name: str) -> None:
        for site in self._adapters.pop(name).ranks:
            self._layers[site].drop(name)
