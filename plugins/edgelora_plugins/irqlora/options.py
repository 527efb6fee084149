"""Options of IR-QLoRA's parts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from edgelora import AdapterOptions, Options
from edgelora.errors import CombinationError
from edgelora.options import BlockwiseOptions

if TYPE_CHECKING:
    from edgelora.plan import Plan


class CalibrationOptions(BlockwiseOptions):
    """Options of ``nf4-icq``, ``nf3-icq`` and ``nf2-icq``."""

    search_range: float = Field(
        0.1, gt=0, description="Offsets up to this many standard deviations are tried (paper: λ)."
    )
    search_steps: int = Field(
        100, ge=1, description="Offsets tried on each side of the block's median (paper: n)."
    )


class ElasticOptions(AdapterOptions):
    """Options of ``iec``."""

    grouping: Literal["strict", "gcd"] = Field(
        "strict",
        description="What to do where the rank does not divide a layer's width: refuse it, or average over "
        "as many groups as their greatest common divisor.",
    )


class EntropyOptions(Options):
    """``code-entropy`` has none."""

    def check(self, plan: Plan) -> None:
        """Refuse a base without codes, where a recipe asks for this evaluator itself."""
        quantizer = plan.parts["quantizer"]
        if quantizer.part.keeps_weights and plan.recipe.evaluators is not None:
            raise CombinationError(
                f"code-entropy measures the codes of a quantized base, and {quantizer.name!r} makes none",
                fix="leave code-entropy out of evaluators, or choose a quantizer: quantizer: nf4",
            )
