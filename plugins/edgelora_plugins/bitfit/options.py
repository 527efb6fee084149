"""Options of BitFit."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from edgelora import Options


class BiasOptions(Options):
    """Options of ``bias``: a bias has no rank."""

    target_modules: Literal["all-linear"] | list[str] = Field(
        "all-linear",
        description='Linears whose biases learn, by full name or suffix; "all-linear" takes all but the '
        "output head.",
    )
    exclude_modules: list[str] = Field([], description="Linears whose biases stay, by full name or suffix.")
