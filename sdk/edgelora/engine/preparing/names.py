"""What files of a prepared base are called, and which a preparation may leave when it is stopped."""

from __future__ import annotations

import re

from edgelora.prepared import INDEX_NAMES, RECORD_NAME

CONFIG_NAME = "config.json"
JOURNAL_NAME = "finished.journal"
"""No name that a reader of models takes for its own: it may be left in a base that was just published."""
BESIDE = re.compile(
    r"(tokenizer|special_tokens|added_tokens|generation_|vocab|merges|spiece|chat_template).*"
    r"\.(json|txt|model|jinja)|(LICENSE|NOTICE|USE_POLICY).*"
)
"""Files that come along with the weights."""
_SHARD = re.compile(r"model-\d{5}-of-\d{5}\.safetensors(\.spill|\.part)?")
_JOURNAL = re.compile(rf"{re.escape(JOURNAL_NAME)}|\.{re.escape(JOURNAL_NAME)}\.[0-9a-f]{{16}}\.tmp")


def shard_name(index: int, count: int) -> str:
    """The name of shard ``index`` of ``count``."""
    return f"model-{index + 1:05d}-of-{count:05d}.safetensors"


def is_ours(name: str) -> bool:
    """Whether a preparation writes files of this name."""
    known = name in {CONFIG_NAME, RECORD_NAME, *INDEX_NAMES.values()}
    return known or any(pattern.fullmatch(name) for pattern in (_SHARD, _JOURNAL, BESIDE))
