"""The result of a benchmark: JSON for tools, a table for people, and whether its goals are met."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from harness.machine import machine, versions

WHERE_FILES_LIE = {"--work", "--bases", "--out"}


@dataclass(frozen=True, slots=True)
class Goal:
    """A promise and the figure that was measured for it."""

    text: str
    figure: str
    """With its unit, and the sequence length where it depends on one."""
    met: bool | None
    """None where it was not measured; ``figure`` says why."""


@dataclass
class Report:
    """What a benchmark found.

    Make it when the benchmark starts: the machine's load is read then.
    """

    benchmark: str
    title: str
    conditions: Mapping[str, Any]
    """Shape, sequence length, batch, rank, dtypes, threads, rounds: what the figures depend on."""
    rows: list[dict[str, Any]] = field(default_factory=list)
    """Of the table, with the same keys each."""
    goals: list[Goal] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """What was skipped and why, and what a reader must know."""
    measured: dict[str, Any] = field(default_factory=dict)
    """Every run, for whoever wants more than the table."""
    command: str = field(default_factory=lambda: command_line(sys.argv))
    machine: dict[str, Any] = field(default_factory=machine)
    versions: dict[str, str] = field(default_factory=versions)

    def text(self, heading: str = "###") -> str:
        """Title, conditions, machine, versions, table, goals and notes, in Markdown."""
        goals = [
            {
                "goal": goal.text,
                "measured": goal.figure,
                "met": {True: "yes", False: "no", None: "not measured"}[goal.met],
            }
            for goal in self.goals
        ]
        parts = [
            f"{heading} {self.title}",
            f"`{self.command}`",
            f"{_listed(self.conditions)}.",
            f"{_listed(self.machine)}. {_listed(self.versions)}.",
            table(self.rows),
            table(goals),
            "\n".join(f"- {note}" for note in self.notes),
        ]
        return "\n\n".join(part for part in parts if part)

    def finish(self, out: Path | None) -> None:
        """Print the report, write it to ``out`` as JSON, and end the process: 1 where a goal is missed."""
        if gaps := [gap for runs in self.measured.values() for gap in _gaps(runs)]:
            self.notes.append(
                f"Anonymous memory was sampled; the longest time between two samples was {max(gaps):.2f} s."
            )
        print(self.text())
        if out is not None:
            out.parent.mkdir(parents=True, exist_ok=True)
            out.write_text(json.dumps(asdict(self), indent=2) + "\n")
        sys.exit(any(goal.met is False for goal in self.goals))


def command_line(arguments: Sequence[str]) -> str:
    """What to type to run a benchmark again, without the options that say where files lie."""
    kept, previous = ["python"], ""
    for argument in arguments:
        if not {argument, previous} & WHERE_FILES_LIE:
            kept.append(argument)
        previous = argument
    return shlex.join(kept)


def _gaps(runs: Any) -> list[float]:
    measured = [run for run in runs if isinstance(run, dict)] if isinstance(runs, list) else []
    return [run["longest_gap_s"] for run in measured if "longest_gap_s" in run]


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows as a Markdown table, its columns the keys of the first; empty without rows."""
    if not rows:
        return ""
    lines = [list(rows[0]), ["---"] * len(rows[0]), *([_cell(row[key]) for key in rows[0]] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:,.2f}" if abs(value) < 100 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def _listed(members: Mapping[str, Any]) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in members.items())
