"""No six lines stand twice under plugins/: what two methods share belongs to the SDK."""

from __future__ import annotations

from collections import defaultdict

from source_tree import modules

LINES = 6


def test_no_six_lines_stand_twice_under_plugins() -> None:
    places: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for module in modules("plugins"):
        lines = [(number, line.strip()) for number, line in enumerate(module.text.splitlines(), start=1)]
        lines = [(number, line) for number, line in lines if line]
        for start in range(len(lines) - LINES + 1):
            window = lines[start : start + LINES]
            places[tuple(line for _, line in window)].append(f"{module.where}:{window[0][0]}")
    assert [where for where in places.values() if len(where) > 1] == []
