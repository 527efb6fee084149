"""The front matter of a foreign card: YAML of a stranger, read without what makes YAML dangerous."""

from __future__ import annotations

import re
from typing import Any

import yaml

MAX_FRONT_MATTER = 2**16
_FRONT = re.compile(r"\A---\r?\n(.*?)^---\s*$", re.DOTALL | re.MULTILINE)


def front_matter(card: str) -> dict[str, Any]:
    """What the card says of itself, as text; nothing where that is too long, malformed or has aliases."""
    match = _FRONT.match(card[:MAX_FRONT_MATTER])
    try:
        front = yaml.load(match[1], _WithoutAliases) if match else None
    except (yaml.YAMLError, RecursionError, ValueError):
        return {}
    return front if isinstance(front, dict) else {}


class _WithoutAliases(yaml.BaseLoader):
    """Texts, lists and mappings only, and no aliases, by which a few lines fill the memory."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise yaml.composer.ComposerError(problem="an alias", problem_mark=self.peek_event().start_mark)
        return super().compose_node(parent, index)
