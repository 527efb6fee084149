"""Where the shipped files lie."""

from __future__ import annotations

from pathlib import Path


def path() -> Path:
    """Folder of the micro base, loadable by ``AutoModelForCausalLM`` and ``AutoTokenizer``."""
    return Path(__file__).parent / "model"


def quickstart_data() -> Path:
    """The quickstart's fine-tuning rows: JSON lines in the alpaca format."""
    return Path(__file__).parent / "quickstart" / "train.jsonl"
