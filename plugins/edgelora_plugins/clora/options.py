"""Options of C-LoRA's parts."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from pydantic import Field

from edgelora import AdapterOptions
from edgelora.errors import PlanError
from edgelora.options import AnswerOptions

if TYPE_CHECKING:
    from edgelora.plan import Plan


class ContinualOptions(AdapterOptions):
    """Options of ``clora``."""

    penalty: float = Field(
        1e3,
        ge=0,
        description="Weight of the forgetting penalty (paper: λ); 0 is LoRA after LoRA. The default is ours: "
        "the right one depends on how large the earlier changes are, and the paper's is for images.",
    )

    def notes(self, plan: Plan) -> Iterable[str]:
        """Without a past nothing can be forgotten."""
        if not plan.past:
            yield (
                "adapter 'clora' without past: is LoRA, and its penalty is 0; name what to go on from, as in "
                "past: [acme/versions@1.0.0]"
            )


class ForgettingOptions(AnswerOptions):
    """Options of ``forgetting``."""

    tasks: list[str] | None = Field(
        None, min_length=1, description="Tasks to ask about; when left out those whose rows are all held out."
    )

    def chosen(self, plan: Plan) -> list[str]:
        """The tasks it asks about."""
        if self.tasks is not None:
            return self.tasks
        trained = {source.task for source in plan.recipe.data if source.held_out < 1}
        return [task for task in plan.tasks if task not in trained]

    def check(self, plan: Plan) -> None:
        """Refuse to measure what there are no rows of."""
        unknown = set(self.chosen(plan)) - set(plan.tasks)
        if unknown or not self.chosen(plan):
            told = (
                f"the data have no task {min(unknown)!r}"
                if unknown
                else "all tasks of the data are trained on"
            )
            raise PlanError(
                f"forgetting has nothing to measure: {told}",
                fix="add rows of an earlier task to data: {path: earlier.jsonl, task: earlier, held_out: 1}",
            )
