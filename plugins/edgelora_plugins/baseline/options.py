"""Options of the baseline's parts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgelora import Options
from edgelora.capabilities import ApproximatelyLowRank, LowRank, Mergeable
from edgelora.errors import CombinationError
from edgelora.options import AnswerOptions

if TYPE_CHECKING:
    from edgelora.plan import Plan


class ExactMatchOptions(AnswerOptions):
    """Options of ``exact-match``."""


class MergeErrorOptions(Options):
    """``merge-error`` has none."""

    def check(self, plan: Plan) -> None:
        """Refuse an adapter without layers that fold, where a recipe asks for this evaluator itself."""
        folding = {kind.__name__ for kind in (LowRank, Mergeable, ApproximatelyLowRank)}
        adapter = plan.parts["adapter"]
        if folding.isdisjoint(adapter.part.abilities) and plan.recipe.evaluators is not None:
            raise CombinationError(
                "merge-error measures how exactly layers fold into weights, and adapter "
                f"{adapter.name!r} has none that do",
                fix="leave merge-error out of evaluators, or choose an adapter that is LowRank or Mergeable; "
                "see: edgelora plugins list",
            )
