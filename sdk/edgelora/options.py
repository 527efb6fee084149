"""The base classes of every part's options.

Importing them imports pydantic, so descriptors name options by string.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

if TYPE_CHECKING:
    from edgelora.plan import Plan


class Options(BaseModel):
    """Base class of every part's options: immutable, and unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    def check(self, plan: Plan) -> None:
        """Refuse what cannot work with the rest of a plan; by default nothing. No torch here.

        Called when a recipe with data is planned, so that nobody waits for a model to load first.

        Raises:
            PlanError: Something does not fit, such as the name of a task that the data do not have.
        """

    def notes(self, plan: Plan) -> Iterable[str]:
        """What works with the rest of a plan and may not be meant; by default nothing. No torch here.

        One sentence each, told by ``edgelora plan`` and when training begins.
        """
        return ()


class AdapterOptions(Options):
    """What every low-rank adapter has: which linears, and the rank, scale and dropout of each."""

    rank: int = Field(16, ge=1, description="Rank of the low-rank product.")
    alpha: float = Field(16.0, gt=0, description="The product is scaled by alpha / rank.")
    dropout: float = Field(0.0, ge=0, lt=1, description="Dropout on the input of the low-rank branch.")
    target_modules: Literal["all-linear"] | list[str] = Field(
        "all-linear",
        description='Linears to adapt, by full name or suffix; "all-linear" takes all but the output head.',
    )
    exclude_modules: list[str] = Field([], description="Linears to leave out, by full name or suffix.")
    rank_pattern: dict[str, Annotated[int, Field(ge=1)]] = Field(
        {}, description="Other ranks for some linears, by name or suffix."
    )
    alpha_pattern: dict[str, Annotated[float, Field(gt=0)]] = Field(
        {}, description="Other alphas for some, by name or suffix."
    )


class AnswerOptions(Options):
    """What every evaluator has that asks the held-out questions of a task."""

    max_new_tokens: int | None = Field(
        None,
        ge=1,
        description="Tokens generated per question at most; longer answers cannot match. Left out: those of "
        "the task's longest expected answer and one more, up to longest_answer.",
    )
    longest_answer: int = Field(
        512, ge=1, description="Bound on max_new_tokens where that is left out, against a single huge answer."
    )
    batch_size: int = Field(64, ge=1, description="Questions generated at the same time.")
    samples: int = Field(500, ge=1, description="Held-out questions asked per task at most, the first ones.")


class BlockwiseOptions(Options):
    """What every quantizer to codes with a scale for each block has."""

    block_size: Literal[32, 64, 128, 256, 512, 1024, 2048, 4096] = Field(
        64, description="Consecutive weights that share one scale."
    )
    double_quantization: bool = Field(
        True, description="Quantize the scales as well, to 8 bits in blocks of 256."
    )
    compute_dtype: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="Of the products; auto takes that of the activations."
    )
