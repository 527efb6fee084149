"""Text made safe for a terminal: what would move its cursor, or hide or turn text, is shown by its number.

Names, reasons and descriptions are written by strangers. The numbers are those of JSON, so that a document
means the same afterwards.
"""

from __future__ import annotations

import json
import re

# Control characters but tab and newline, line and paragraph separators, marks and overrides of the direction
# of writing, halves of characters, and invisible copies of ASCII.
_UNSAFE = (
    r"\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff"
    r"\U000e0000-\U000e007f"
)
_ANYTHING = re.compile(f"[{_UNSAFE}]")
_BUT_COLOURS = re.compile(rf"\x1b\[(?:0|1|3[0-7])m|([{_UNSAFE}])")
_IN_A_LINE = re.compile(rf"[\t\n{_UNSAFE}]")


def plain(text: str) -> str:
    """Lines of text, and nothing else."""
    return _ANYTHING.sub(_number, text)


def coloured(text: str) -> str:
    """The same with what ``console.style`` writes."""
    return _BUT_COLOURS.sub(lambda match: _number(match) if match[1] else match[0], text)


def one_line(text: str) -> str:
    """Text that stays in the line it is put into, and so cannot pass for another line."""
    return _IN_A_LINE.sub(_number, text)


def _number(match: re.Match[str]) -> str:
    return json.dumps(match[0])[1:-1]
