"""Options of full fine-tuning."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgelora import Options
from edgelora.bases import prepared_at
from edgelora.errors import CombinationError

if TYPE_CHECKING:
    from edgelora.plan import Plan


class FullOptions(Options):
    """``weights`` has none: all of them learn."""

    def check(self, plan: Plan) -> None:
        """Refuse a base that is quantized or prepared: neither codes nor what lies in files learns."""
        if prepared_at(plan.recipe.base):
            raise CombinationError(
                f"adapter 'weights' trains every weight, and {plan.recipe.base} is a prepared base, whose "
                "weights stay in its files",
                fix="use the unquantized model it was made from",
            )
        quantizer = plan.parts["quantizer"]
        if not quantizer.part.keeps_weights:
            raise CombinationError(
                f"adapter 'weights' trains every weight, and over {quantizer.name} some are codes",
                fix="set quantizer: none, or choose an adapter that learns beside the weights",
            )
