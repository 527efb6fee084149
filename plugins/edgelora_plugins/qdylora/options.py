"""Options of DyLoRA's parts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field, PositiveInt

from edgelora import AdapterOptions, Options
from edgelora.errors import PlanError
from edgelora.options import AnswerOptions

if TYPE_CHECKING:
    from edgelora.plan import Plan


class DyloraOptions(AdapterOptions):
    """Options of ``dylora``; ``rank`` is the largest rank (paper: r_max)."""

    alpha: float = Field(16.0, gt=0, description="The product of rank b is scaled by alpha / b.")
    published_rank: int | None = Field(
        None,
        ge=1,
        description="Rank that is measured and published, the largest when left out. In PEFT's form a lower "
        "one is all that is written; checkpoints keep every component.",
    )

    def check(self, plan: Plan) -> None:
        """Refuse to publish more components than there are."""
        _refuse_above(self.rank_limit(), self.published_rank or 1, "adapter.published_rank")

    def rank_limit(self) -> int:
        """The largest rank that any site has."""
        return max([self.rank, *self.rank_pattern.values()])


class NestedOptions(Options):
    """Options of ``nested``."""

    ranks: list[PositiveInt] | None = Field(
        None,
        min_length=1,
        description="Ranks to draw from, all alike; each from 1 to the largest by default.",
    )
    frozen: bool = Field(
        False,
        description="In a step of rank b only component b learns (paper: frozen), not all from 1 to b.",
    )

    def check(self, plan: Plan) -> None:
        """Refuse ranks above the adapter's, and choices that would publish or leave untrained components."""
        if self.frozen and self.ranks is not None:
            raise PlanError(
                "nested: with frozen only the components named by ranks would ever learn",
                fix="leave rank_scheduler.ranks out, or set frozen to false",
            )
        options = plan.parts["adapter"].options
        if isinstance(options, AdapterOptions):
            all_ranks = {options.rank, *options.rank_pattern.values()}
            _refuse_above(max(all_ranks), max(self.ranks or [1]), "rank_scheduler.ranks")
            if isinstance(options, DyloraOptions):
                self._refuse_undrawn(options.published_rank or options.rank_limit())
            if self.frozen and len(all_ranks) > 1:
                raise PlanError(
                    "nested: with frozen the last component of a site of a lower rank would learn in every "
                    "step of a higher one",
                    fix="leave adapter.rank_pattern out, or set frozen to false",
                )

    def _refuse_undrawn(self, published: int) -> None:
        if self.ranks is not None and published not in self.ranks:
            raise PlanError(
                f"nested: rank {published} is published, and rank_scheduler.ranks never draws it",
                fix=f"add {published} to rank_scheduler.ranks, or set adapter.published_rank to "
                f"{max(self.ranks)}",
            )


class SweepOptions(AnswerOptions):
    """Options of ``rank-sweep``."""

    ranks: list[PositiveInt] | None = Field(
        None,
        min_length=1,
        description="Ranks to measure at; the powers of two up to the largest, and that, when left out.",
    )
    metrics: list[Literal["loss", "exact_match"]] = Field(
        ["loss"], min_length=1, description="What to measure at each rank."
    )

    def check(self, plan: Plan) -> None:
        """Refuse ranks above the adapter's."""
        options = plan.parts["adapter"].options
        if isinstance(options, AdapterOptions):
            limit = max([options.rank, *options.rank_pattern.values()])
            _refuse_above(limit, max(self.ranks or [1]), "the ranks of rank-sweep")


def _refuse_above(limit: int, rank: int, where: str) -> None:
    if rank > limit:
        raise PlanError(
            f"{where}: {rank} is above the adapter's largest rank, {limit}",
            fix=f"choose ranks up to {limit}, or raise adapter.rank",
        )
