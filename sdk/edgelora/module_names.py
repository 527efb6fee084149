"""How a recipe names modules of a model: in full, or by an ending at a dot."""

from __future__ import annotations

from collections.abc import Iterable


def is_named(name: str, patterns: Iterable[str]) -> bool:
    """Whether one of the patterns is ``name`` or an ending of it at a dot.

    >>> is_named("model.layers.0.self_attn.q_proj", ["q_proj"]), is_named("model.layers.10", ["0"])
    (True, False)
    """
    return any(name == pattern or name.endswith(f".{pattern}") for pattern in patterns)


def endings(name: str) -> list[str]:
    """All patterns that name a module, longest first.

    >>> endings("self_attn.q_proj")
    ['self_attn.q_proj', 'q_proj']
    """
    parts = name.split(".")
    return [".".join(parts[start:]) for start in range(len(parts))]
