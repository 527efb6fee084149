"""Options of ResLoRA."""

from __future__ import annotations

from pydantic import Field

from edgelora import AdapterOptions


class ShortcutOptions(AdapterOptions):
    """Options of ``block-shortcut`` and ``middle-shortcut``."""

    pre_num: int = Field(
        4, ge=-1, description="From how many blocks before it a block has shortcuts; -1 for all, 0 for LoRA."
    )

    def reach(self, length: int) -> int:
        """From how many before it a block of a chain has shortcuts."""
        return length if self.pre_num == -1 else self.pre_num
