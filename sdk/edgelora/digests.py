"""Digests of what was measured."""

from __future__ import annotations

import json
from collections.abc import Iterable
from hashlib import sha256


def questions_digest(questions: Iterable[tuple[str, str]]) -> str:
    """``sha256:`` of questions with their answers, one JSON array a line, in the order asked."""
    lines = (json.dumps([question, answer]) + "\n" for question, answer in questions)
    return f"sha256:{sha256(''.join(lines).encode()).hexdigest()}"


def tokens_digest(rows: Iterable[tuple[list[int], list[int]]]) -> str:
    """``sha256:`` of rows as token ids and labels, one JSON array a line, in any order."""
    lines = sorted(json.dumps([ids, labels]) + "\n" for ids, labels in rows)
    return f"sha256:{sha256(''.join(lines).encode()).hexdigest()}"
