"""Options of the bottleneck adapter."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from edgelora import AdapterOptions


class BottleneckOptions(AdapterOptions):
    """Options of ``bottleneck``."""

    rank: int = Field(16, ge=1, description="Width of the bottleneck.")
    alpha: float = Field(
        16.0, gt=0, description="What is added is scaled by alpha / rank; published is a scale of 1."
    )
    dropout: float = Field(0.0, ge=0, lt=1, description="Dropout on the input of the bottleneck.")
    target_modules: Literal["outputs", "all-linear"] | list[str] = Field(
        "outputs",
        description='Linears to adapt after, by full name or suffix; "outputs" takes those that end the '
        "attention and feed-forward sublayers.",
    )
    activation: Literal["gelu", "relu", "silu", "tanh"] = Field(
        "gelu", description="Nonlinearity between the two projections."
    )
