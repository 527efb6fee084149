"""Options of LoRA."""

from __future__ import annotations

from pydantic import Field

from edgelora import AdapterOptions


class LoraOptions(AdapterOptions):
    """Options of ``lora``."""

    rank_stabilized: bool = Field(False, description="rsLoRA: scale by alpha / √rank.")
