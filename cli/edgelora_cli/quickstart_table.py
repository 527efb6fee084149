"""The quickstart's table, and the promises it is held to."""

from __future__ import annotations

from typing import Any

from edgelora.manifest import EvaluationEntry, Manifest
from edgelora_cli.console import table

ROWS = {
    "litmus.decimals_conflict": "decimals where the orders differ, held-out pairs",
    "litmus.decimals_agree": "decimals where they agree, held-out pairs",
    "litmus.versions": "versions: must be retained",
    "litmus.sequences": "additive sequences: must be retained",
    "litmus.fibonacci": "Fibonacci, 4 terms (memorised, not held out)",
}
PROMISES = (
    ("litmus.decimals_conflict", "adapter", ">=", 0.90),
    ("litmus.decimals_conflict", "base", "<=", 0.10),
    ("litmus.versions", "adapter", ">=", 0.90),
)
"""Metric, phase, direction and bar, as the README states them."""


def before_and_after(manifest: Manifest) -> str:
    """One line per litmus row: share of right answers with its 95 % interval, before and after."""
    entries = _entries(manifest)
    rows = []
    for metric, label in ROWS.items():
        before, after = entries[metric, "base"], entries[metric, "adapter"]
        rows.append((label, *_cells(before), *_cells(after), str(after.n)))
    header = ("share of right answers", "base", "95 % interval", "adapter", "95 % interval", "n")
    return table(header, rows)


def broken_promises(manifest: Manifest) -> list[str]:
    """Sentences naming each promise the measurements do not keep."""
    entries = _entries(manifest)
    broken = []
    for metric, phase, sign, bar in PROMISES:
        value = float(entries[metric, phase].value)
        if not (value >= bar if sign == ">=" else value <= bar):
            broken.append(f"{metric} of the {phase} is {value:.3f}, promised was {sign} {bar}")
    return broken


def measured(manifest: Manifest) -> list[dict[str, Any]]:
    """All measurements as plain values."""
    return [
        {
            "metric": entry.metric,
            "phase": entry.phase,
            "value": float(entry.value),
            "low": None if entry.low is None else float(entry.low),
            "high": None if entry.high is None else float(entry.high),
            "n": entry.n,
            "split_digest": entry.split_digest,
        }
        for entry in manifest.evaluation or ()
    ]


def _entries(manifest: Manifest) -> dict[tuple[str, str | None], EvaluationEntry]:
    return {(entry.metric, entry.phase): entry for entry in manifest.evaluation or ()}


def _cells(entry: EvaluationEntry) -> tuple[str, str]:
    low, high = entry.low, entry.high
    interval = "" if low is None or high is None else f"{float(low):.3f} to {float(high):.3f}"
    return f"{float(entry.value):.3f}", interval
