"""Loss, perplexity and exact match on held-out rows."""

from __future__ import annotations

import math

from edgelora import Options
from edgelora.layers.held_out import exact_matches, held_out_losses
from edgelora.protocols import Evaluation, Measurement
from edgelora_plugins.baseline.options import ExactMatchOptions


class HeldOutLoss:
    """Mean cross-entropy in nats per labelled token, and its exponential, per task."""

    def __init__(self, options: Options) -> None:
        pass

    def __call__(self, run: Evaluation) -> dict[str, Measurement]:
        """``"<task>.loss"`` and ``"<task>.perplexity"``; n counts labelled tokens."""
        measurements = {}
        for task, loss in held_out_losses(run).items():
            measurements[f"{task}.loss"] = loss
            measurements[f"{task}.perplexity"] = Measurement(
                _exp(loss.value), loss.n, _exp(loss.low), _exp(loss.high), loss.split_digest
            )
        return measurements


def _exp(value: float) -> float:
    return math.exp(value) if value < 700 else math.inf


class ExactMatch:
    """Fraction of held-out questions whose greedy answer is the expected one, outer blanks aside."""

    def __init__(self, options: ExactMatchOptions) -> None:
        self.options = options

    def __call__(self, run: Evaluation) -> dict[str, Measurement]:
        """``"<task>.exact_match"``; n counts questions."""
        found = exact_matches(run, self.options)
        return {f"{task}.exact_match": measured for task, measured in found.items()}
