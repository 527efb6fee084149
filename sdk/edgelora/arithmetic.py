"""Memory by the rules of thumb of talks and papers: bits for each parameter of the base."""

from __future__ import annotations

from dataclasses import dataclass

WIDTHS = {"float32": 32, "float16": 16, "int8": 8, "int4": 4}
"""Bits of a weight."""
BLOCK, STATISTICS_BLOCK = 64, 256
"""Weights that share a constant, and constants that share one (QLoRA, arXiv:2305.14314, section 3)."""
CLASSIC_STEPS = (60, 500, 6470)
"""Lengths of the runs in Yugopuspito et al. 2024, Table 2."""
SLIDES = {"full fine-tuning": 96.0, "LoRA": 17.6, "QLoRA": 5.2}
"""Bits per parameter as the talks around Yugopuspito et al. 2024 give them, for comparison. That of QLoRA
leaves out the adapter's own 0.4 bit."""


@dataclass(frozen=True, slots=True)
class BitsPerParameter:
    """What each parameter of the base costs while training, in bits.

    Attributes:
        weight: Of the frozen or learning weight itself.
        adapter: Of the adapter's weights, spread over the base's parameters.
        gradient: Of what learns.
        optimizer: Two moments of what learns.
    """

    weight: float
    adapter: float
    gradient: float
    optimizer: float

    @property
    def total(self) -> float:
        """All of it."""
        return self.weight + self.adapter + self.gradient + self.optimizer


def bits_per_parameter(parameters: int, trainable: int) -> dict[str, BitsPerParameter]:
    """Full fine-tuning, LoRA and QLoRA of one model, without activations.

    Weights, gradients and adapters in 16 bit, two moments of 32 bit each; QLoRA's weights in 4 bit and its
    constants in double quantization. Where as much is trained as the model has, full fine-tuning alone.

    >>> bits_per_parameter(7_000_000_000, 0)["full fine-tuning"].total
    96.0
    """
    full = {"full fine-tuning": BitsPerParameter(16.0, 0.0, 16.0, 64.0)}
    if trainable >= parameters:
        return full
    share = trainable / parameters
    of_adapter = 16 * share, 16 * share, 64 * share
    return full | {
        "LoRA": BitsPerParameter(16.0, *of_adapter),
        "QLoRA": BitsPerParameter(4 + quantization_constant_bits(double=True), *of_adapter),
    }


def quantization_constant_bits(*, double: bool) -> float:
    """Bits of the scales for each weight in blocks of 64, with or without double quantization.

    >>> quantization_constant_bits(double=False)
    0.5
    """
    return 8 / BLOCK + 32 / (BLOCK * STATISTICS_BLOCK) if double else 32 / BLOCK


def weights_gb(parameters: float) -> dict[str, float]:
    """Weights in gigabytes of 10⁹ bytes, at each of the `WIDTHS`.

    >>> weights_gb(7e9)
    {'float32': 28.0, 'float16': 14.0, 'int8': 7.0, 'int4': 3.5}
    """
    return {name: parameters * bits / 8 / 1e9 for name, bits in WIDTHS.items()}
