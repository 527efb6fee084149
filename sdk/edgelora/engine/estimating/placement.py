"""Where the base lies while training, and what is computed again instead of kept."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from edgelora.capabilities import StockQuantization
from edgelora.errors import CombinationError
from edgelora.plan import Plan
from edgelora.plan.plan import UNSTREAMED

FEWEST_LOSS_ROWS = 16
"""With fewer, the head's weight is read more often than it is computed with."""


@dataclass(frozen=True, slots=True)
class Placement:
    """Settings of a run that change its memory and time, and nothing it learns."""

    streamed: bool
    gradient_checkpointing: bool
    loss_rows: int

    @classmethod
    def of(cls, plan: Plan) -> Placement:
        """That of a plan as it stands."""
        train = plan.recipe.train
        return cls(train.streamed, train.is_checkpointed, train.loss_rows)

    @property
    def name(self) -> str:
        """One word: ``streamed``, ``checkpointed`` or ``resident``."""
        if self.streamed:
            return "streamed"
        return "checkpointed" if self.gradient_checkpointing else "resident"

    def apply(self, plan: Plan) -> Plan:
        """The plan with these settings."""
        return with_settings(plan, dataclasses.asdict(self))


def with_settings(plan: Plan, train: dict[str, Any]) -> Plan:
    """The plan with other settings of ``train``."""
    recipe = plan.recipe
    changed = recipe.model_copy(update={"train": recipe.train.model_copy(update=train)})
    return dataclasses.replace(plan, recipe=changed)


def alternatives(plan: Plan) -> list[Placement]:
    """Resident, checkpointed and streamed, in the order of their speed.

    What the recipe asks for itself is kept: nothing that keeps more than that is offered. Streamed is left
    out for an adapter under which no base is, and whatever else its options refuse.
    """
    rows = plan.recipe.train.loss_rows
    every = [
        Placement(streamed=False, gradient_checkpointing=False, loss_rows=rows),
        Placement(streamed=False, gradient_checkpointing=True, loss_rows=rows),
        Placement(streamed=True, gradient_checkpointing=True, loss_rows=rows),
    ]
    possible = every if _never_streamed(plan) is None else every[:-1]
    own, *others = possible[possible.index(Placement.of(plan)) :]
    return [own, *(each for each in others if _suits_adapter(each.apply(plan)))]


def _suits_adapter(plan: Plan) -> bool:
    try:
        plan.parts["adapter"].options.check(plan)
    except CombinationError:
        return False
    return True


def why_not_streamed(plan: Plan, *, prepared: bool) -> str | None:
    """Why a plan's base cannot be streamed as it is; None where it can."""
    if (never := _never_streamed(plan)) is not None:
        return never
    quantizer = plan.build("quantizer")
    if prepared or (isinstance(quantizer, StockQuantization) and quantizer.quantization_config() == {}):
        return None
    return f"a base that {plan.parts['quantizer'].name} quantizes is streamed only when it was prepared"


def _never_streamed(plan: Plan) -> str | None:
    """Why no base is ever streamed under a plan's adapter; None where some are."""
    adapter = plan.parts["adapter"]
    for ability, reason in UNSTREAMED.items():
        if ability in adapter.part.abilities:
            return f"adapter {adapter.name!r} cannot be streamed: {reason}"
    return None


def fewer_loss_rows(rows: int) -> list[int]:
    """``rows`` and its halves, down to `FEWEST_LOSS_ROWS`."""
    found = [rows]
    while found[-1] > FEWEST_LOSS_ROWS:
        found.append(max(FEWEST_LOSS_ROWS, found[-1] // 2))
    return found
