"""Write docs/reference/results.md from the JSON that benchmarks left.

    make bench bench-large results

A figure on the page is never typed: to renew it, run its benchmark and this. Sections of benchmarks that left
nothing this time stay as they are.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from harness import Goal, Report

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "reference" / "results.md"
INTRODUCTION = """# Results

What the benchmarks of this repository measured, one command each. A ratio compares arms of one run, which
took turns where there were several rounds; its figures are medians over these. Memory is what Linux counts:
*peak RSS* is the kernel's own peak of the resident set, mapped files included; *anonymous* memory is the part
that no file backs, sampled every 4 ms from another process. Bases have the shape of the model that is named
and random weights, every block its own: what a step costs does not depend on what the numbers are.
`make bench` runs the small ones, `make bench-large` those that need tens of GB of disk, and `make results`
writes their sections of this page from what they left in `build/bench`.
"""
HEADING = "## "


def read(path: Path) -> Report | None:
    """The report in a file; None where a benchmark of another form wrote it."""
    document = json.loads(path.read_text())
    if not isinstance(document, dict) or "goals" not in document:
        return None
    return Report(**{**document, "goals": [Goal(**goal) for goal in document["goals"]]})


def sections(page: str) -> dict[str, str]:
    """The sections of a page by title, in their order."""
    parts = page.split(f"\n{HEADING}")[1:]
    return {part.partition("\n")[0]: HEADING + part.strip() for part in parts}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--results", type=Path, default=ROOT / "build" / "bench", help="where the JSON lies")
    parser.add_argument("--out", type=Path, default=PAGE)
    arguments = parser.parse_args()
    reports = [report for path in sorted(arguments.results.glob("*.json")) if (report := read(path))]
    written = {report.title: report.text(heading=HEADING.strip()) for report in reports}
    kept = sections(arguments.out.read_text()) if arguments.out.exists() else {}
    arguments.out.write_text("\n\n".join([INTRODUCTION.strip(), *(kept | written).values()]) + "\n")


if __name__ == "__main__":
    main()
