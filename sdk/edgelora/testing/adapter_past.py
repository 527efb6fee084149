"""What holds for every adapter that goes on from earlier ones."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from edgelora.capabilities import HasPast
from edgelora.engine.apply import load_adapted
from edgelora.engine.base import load_base
from edgelora.engine.inject import choose_sites, plain_linears
from edgelora.engine.pack import pack
from edgelora.engine.past_sites import Past
from edgelora.plan import Plan
from edgelora.protocols import Factors
from edgelora.testing import tiny
from edgelora.testing.adapter_bench import STEPS, AdapterBench, home_of_its_own, record_of
from edgelora.testing.check import require
from edgelora.testing.compare import distance
from edgelora.testing.subject import CPU, Subject, make_subject

RANKS = (2, 1)
"""Of the two adapters that came before."""


class PastChecks(AdapterBench):
    """The part of `AdapterConformance` that is about `HasPast`."""

    def test_it_goes_on_from_its_past(self) -> None:
        """HasPast: it starts at base plus past, and keeps the past as it was while it learns."""
        self.skip_unless(HasPast)
        for plan in self.plans():
            past = _random_past(plan)
            subject = make_subject(plan, past)
            self._require_start(subject, past)
            subject.train(STEPS)
            for site, layer in subject.layers.items():
                self._require_kept(f"{self.over(subject)} {site}", layer, past.get(site, ()))

    def test_it_is_rebuilt_without_its_past(self) -> None:
        """HasPast: packed and applied again it computes the same, and those before it are not asked."""
        self.skip_unless(HasPast)
        for plan in self.plans():
            subject = make_subject(plan, _random_past(plan))
            subject.train(STEPS)
            place = self.place(subject).with_name("past")
            with home_of_its_own():
                pack(subject.model, subject.layers, plan, record_of(subject), place)
                again = load_adapted(str(place), self.registry(), base=str(tiny.base_folder()), device=CPU)
            far = distance(_logits(again.model, subject), _logits(subject.model, subject))
            require(
                far <= 1e-5,
                f"{self.over(subject)} applied again it computes logits {far:.2e} away; keep the past in "
                "persistent buffers of the shapes of Site.past",
            )

    def _require_start(self, subject: Subject, past: Past) -> None:
        subject.model.eval()
        for site, (x, y) in subject.observe(subject.batch()).items():
            with torch.no_grad():
                expected = subject.base_of(site)(x)
                for A, B, scaling in past.get(site, ()):
                    expected = expected + scaling * (x @ A.T @ B.T)
            far = distance(y, expected)
            require(
                far <= 1e-5,
                f"{self.over(subject)} {site} starts {far:.2e} from base plus past; add the products of "
                "Site.past to what the layer computes",
            )

    def _require_kept(self, where: str, layer: Any, past: tuple[Factors, ...]) -> None:
        if not isinstance(layer, HasPast):
            return
        held = layer.past_factors()
        require(
            len(held) == len(past), f"{where} has a past of {len(held)} adapters, and was given {len(past)}"
        )
        for mine, given in zip(held, past, strict=True):
            far = distance(mine.scaling * mine.B @ mine.A, given.scaling * given.B @ given.A)
            require(
                far <= 1e-5 and not (mine.A.requires_grad or mine.B.requires_grad),
                f"{where} has another past than it was given ({far:.2e} away), or one that learns; keep it "
                "in buffers",
            )


def _random_past(plan: Plan) -> Past:
    """Two earlier adapters; the second left every other linear alone."""
    linears = plain_linears(load_base(plan, CPU))
    draw = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return 0.1 * torch.randn(*shape, generator=draw)

    return {
        site.name: tuple(
            Factors(
                normal(rank, linears[site.name].in_features),
                normal(linears[site.name].out_features, rank),
                1.0,
            )
            for rank in (RANKS if site.depth % 2 else RANKS[:1])
        )
        for site in choose_sites(linears, plan)
    }


@torch.no_grad()
def _logits(model: Any, subject: Subject) -> Tensor:
    batch = subject.batch()
    model.eval()
    logits: Tensor = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits
    return logits
