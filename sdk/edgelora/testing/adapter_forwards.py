"""What holds between forwards and their backward passes: recomputed, several at a time, and afterwards."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Mapping
from contextlib import ExitStack
from functools import partial

from torch import Tensor, UntypedStorage, nn

from edgelora.capabilities import CrossSite
from edgelora.testing.adapter_bench import AdapterBench
from edgelora.testing.check import require
from edgelora.testing.compare import distance
from edgelora.testing.subject import Subject, checkpointed


class ForwardChecks(AdapterBench):
    """The part of `AdapterConformance` that is about what a forward leaves for later."""

    def test_gradients_are_equal_under_checkpointing(self) -> None:
        """Non-reentrant checkpointing computes forwards twice; the second must be the first again."""
        self.skip_unless_planned({"gradient_checkpointing": True})
        for subject in self.trained():
            plain = subject.gradients(subject.batch())
            with checkpointed(subject.model):
                again = subject.gradients(subject.batch())
            self._require_equal(
                again,
                plain,
                subject,
                "under checkpointing; change no state in forward, for it runs twice, and read other sites "
                "through an edgelora.layers.relay.Relay",
            )

    def test_forwards_do_not_mix(self) -> None:
        """CrossSite: what a layer reads of others is of the same forward, if others are made meanwhile."""
        self.skip_unless(CrossSite)
        for subject in self.trained():
            batches = subject.batch(), subject.batch(subject.rows(1)[:1])
            one, other = (subject.gradients(batch) for batch in batches)
            added = {name: each + other[name] for name, each in one.items()}
            self._require_equal(
                subject.gradients(*batches), added, subject, "after two forwards; keep nothing in the layer"
            )
            with checkpointed(subject.model):
                again = subject.gradients(*batches)
            self._require_equal(
                again,
                added,
                subject,
                "after two forwards under checkpointing; read other sites through an "
                "edgelora.layers.relay.Relay",
            )

    def test_its_neighbours_are_sites_before_it(self) -> None:
        """CrossSite: ``neighbours()`` names adapted sites that are computed earlier."""
        self.skip_unless(CrossSite)
        for subject in self.subjects():
            before: list[str] = []
            for site, layer in subject.layers.items():
                named = layer.neighbours() if isinstance(layer, CrossSite) else ()
                strange = sorted({*named} - {*before})
                require(not strange, f"{site} names {strange} as neighbours; name sites that are before it")
                before.append(site)

    def test_nothing_of_a_forward_stays(self) -> None:
        """After the backward pass, and after an evaluation, no layer holds what it was given."""
        for subject in self.trained():
            given: list[tuple[str, weakref.ref[UntypedStorage]]] = []
            with ExitStack() as hooks:
                for site, layer in subject.layers.items():
                    hooks.enter_context(layer.register_forward_pre_hook(partial(_note, given, site)))
                subject.gradients(subject.batch())
                subject.logits()
            gc.collect()
            held = list(dict.fromkeys(site for site, memory in given if memory() is not None))
            require(
                not held,
                f"{self.over(subject)} the input of {', '.join(held[:3])} ({len(held)} in all) is still in "
                "memory after the backward pass; keep no tensors of a forward in the layer",
            )

    def _require_equal(
        self, found: Mapping[str, Tensor], wanted: Mapping[str, Tensor], subject: Subject, when: str
    ) -> None:
        far = {name: distance(found[name], each) for name, each in wanted.items() if each.any()}
        worst = max(far, key=far.__getitem__)
        require(
            far[worst] <= 1e-5,
            f"{self.over(subject)} the gradient of {worst} is {far[worst]:.2e} off {when}",
        )


def _note(
    given: list[tuple[str, weakref.ref[UntypedStorage]]], site: str, _: nn.Module, inputs: tuple[Tensor, ...]
) -> None:
    given.append((site, weakref.ref(inputs[0].untyped_storage())))
