"""What one adapter is worth at each of its ranks."""

from __future__ import annotations

from collections.abc import Sequence

from edgelora.capabilities import Nested
from edgelora.layers.held_out import exact_matches, held_out_losses
from edgelora.protocols import Evaluation, Measurement
from edgelora_plugins.qdylora.options import SweepOptions


class RankSweep:
    """Held-out loss, exact match or both at each of several ranks; the ranks are left as found.

    A site with fewer components than a rank is measured with all it has.
    """

    def __init__(self, options: SweepOptions) -> None:
        self.options = options

    def __call__(self, run: Evaluation) -> dict[str, Measurement]:
        """``"<task>.loss@<rank>"`` and ``"<task>.exact_match@<rank>"``."""
        layers = [layer for layer in run.layers.values() if isinstance(layer, Nested)]
        if not layers:
            run.tell("there is no adapter of nested ranks")
            return {}
        found = [layer.rank for layer in layers]
        measurements: dict[str, Measurement] = {}
        try:
            for rank in self.options.ranks or powers_of_two(max(layer.max_rank for layer in layers)):
                for layer in layers:
                    layer.set_rank(min(rank, layer.max_rank))
                measurements |= {f"{name}@{rank}": each for name, each in self._measure(run).items()}
        finally:
            for layer, rank in zip(layers, found, strict=True):
                layer.set_rank(rank)
        return measurements

    def _measure(self, run: Evaluation) -> dict[str, Measurement]:
        measurements = {}
        if "loss" in self.options.metrics:
            measurements |= {f"{task}.loss": each for task, each in held_out_losses(run).items()}
        if "exact_match" in self.options.metrics:
            answers = exact_matches(run, self.options)
            measurements |= {f"{task}.exact_match": each for task, each in answers.items()}
        return measurements


def powers_of_two(largest: int) -> Sequence[int]:
    """1, 2, 4, … below ``largest``, and ``largest``."""
    return [1 << power for power in range((largest - 1).bit_length())] + [largest]
