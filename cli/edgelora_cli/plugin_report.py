"""What ``edgelora plugins check`` says, for people and for programs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from edgelora_cli.console import print_problem, style

if TYPE_CHECKING:
    from edgelora.errors import GateFailed
    from edgelora.registry.status import PluginStatus
    from edgelora.testing import CheckResult

COLOURS = {"ok": "green", "failed": "red", "skipped": "yellow"}


@dataclass(frozen=True, slots=True)
class Section:
    """The plugin as a whole, or one of its parts, with what became of its checks."""

    title: str
    results: tuple[CheckResult, ...]
    settings: Mapping[str, Any]

    def lines(self) -> Iterator[str]:
        """The title, what it was checked with, and a line for each check; the same cause is told once."""
        yield style(self.title, bold=True)
        if told := [f"{name} {value}" for name, value in self.settings.items()]:
            yield f"  checked with {', '.join(told)}"
        first: dict[str, str] = {}
        for result in self.results:
            earlier = first.setdefault(result.detail, result.sentence)
            again = result.outcome == "failed" and earlier != result.sentence
            yield _line(result, f"as {earlier!r}" if again else result.detail)


@dataclass(frozen=True, slots=True)
class Report:
    """Everything that was checked."""

    plugin: PluginStatus
    sections: tuple[Section, ...]
    seconds: float

    @property
    def counts(self) -> dict[str, int]:
        """Checks by outcome."""
        found = Counter(result.outcome for section in self.sections for result in section.results)
        return {outcome: found[outcome] for outcome in ("ok", "failed", "skipped")}

    @property
    def failed(self) -> list[str]:
        """The checks that failed, for people."""
        return [
            f"{section.title}: {result.sentence}"
            for section in self.sections
            for result in section.results
            if result.outcome == "failed"
        ]

    def text(self) -> str:
        """One line per check."""
        lines = []
        for section in self.sections:
            lines += [*section.lines(), ""]
        counts = self.counts
        summary = ", ".join(f"{count} {outcome}" for outcome, count in counts.items())
        return "\n".join([*lines, f"{sum(counts.values())} checks in {self.seconds:.0f} s: {summary}"])

    def document(self) -> dict[str, Any]:
        """The same as JSON; with a member ``error`` where a check failed."""
        found: dict[str, Any] = {
            "plugin": self.plugin.name,
            "distribution": self.plugin.distribution,
            "version": self.plugin.version,
            "checked": [
                {
                    "what": section.title,
                    "settings": dict(section.settings),
                    "checks": [asdict(result) | {"check": result.sentence} for result in section.results],
                }
                for section in self.sections
            ],
            **self.counts,
        }
        if self.failed:
            failure = failure_of(self)
            found["error"] = {
                "id": failure.id,
                "exit_code": failure.exit_code,
                "problem": failure.problem,
                "fix": failure.fix,
            }
        return found


def failure_of(report: Report) -> GateFailed:
    """The error of a report in which a check failed."""
    from edgelora.errors import GateFailed

    failed = report.failed
    more = f"; and {len(failed) - 3} more" if len(failed) > 3 else ""
    return GateFailed(
        f"plugin {report.plugin.name!r} fails {len(failed)} of {sum(report.counts.values())} checks: "
        f"{'; '.join(failed[:3])}{more}",
        fix="do what the FAILED lines of the report say, then run it again",
    )


def tell(report: Report) -> int:
    """Say on stderr what failed; the exit code of that."""
    failure = failure_of(report)
    print_problem(failure.id, failure.problem, failure.fix)
    return failure.exit_code


def _line(result: CheckResult, detail: str) -> str:
    word = result.outcome.upper() if result.outcome == "failed" else result.outcome
    told = {"ok": f" ({detail})" if detail else ""}.get(result.outcome, f": {detail}")
    return f"  {style(word.ljust(7), fg=COLOURS[result.outcome])}  {result.sentence}{told}"
