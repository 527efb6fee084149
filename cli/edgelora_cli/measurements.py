"""Measurements as a table: the value, its 95 % interval and n, before and after where both are known."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

from edgelora_cli.console import table

if TYPE_CHECKING:
    from edgelora.protocols import Measurement


def measurement_table(after: Mapping[str, Measurement], before: Mapping[str, Measurement]) -> str:
    """One line per metric; the columns of the base are left out when it was not measured."""
    if not (after or before):
        return "nothing was measured"
    if not before:
        return table(
            ("metric", "value", "95 % interval", "n"), [(name, *_cells(after[name])) for name in after]
        )
    names = dict.fromkeys((*before, *after))
    rows = [(name, *_cells(before.get(name))[:2], *_cells(after.get(name))) for name in names]
    return table(("metric", "base", "95 % interval", "adapter", "95 % interval", "n"), rows)


def _cells(measured: Measurement | None) -> tuple[str, str, str]:
    if measured is None:
        return "", "", ""
    return _short(measured.value), f"{_short(measured.low)} to {_short(measured.high)}", f"{measured.n:,}"


def _short(value: float) -> str:
    return f"{value:.3f}" if math.isfinite(value) and abs(value) < 1000 else f"{value:.3g}"
