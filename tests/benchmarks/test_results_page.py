"""The results page says what the benchmarks measured, and nothing else."""

import json
import sys
from dataclasses import asdict

import pytest

import results_page
from harness import Goal, Report
from harness.report import command_line


def test_reports_become_sections_and_other_files_are_passed_over(tmp_path, monkeypatch):
    report = Report("b", "A title", {"sequence_length": 128}, rows=[{"arm": "a", "GiB": 1.5}])
    report.goals = [Goal("at most 2 GiB", "1.5 GiB", True)]
    (tmp_path / "b.json").write_text(json.dumps(asdict(report)))
    (tmp_path / "old.json").write_text(json.dumps({"ratio": 1.2}))
    page = tmp_path / "page.md"
    arguments = ["results_page.py", "--results", str(tmp_path), "--out", str(page)]
    monkeypatch.setattr(sys, "argv", arguments)
    results_page.main()
    text = page.read_text()
    assert text.startswith("# Results\n")
    assert text.count("\n## ") == 1
    results_page.main()
    assert page.read_text() == text
    for part in ("## A title", "sequence length 128", "| a | 1.50 |", "| at most 2 GiB | 1.5 GiB | yes |"):
        assert part in text


def test_a_section_stays_until_its_benchmark_ran_again(tmp_path, monkeypatch):
    page = tmp_path / "page.md"
    page.write_text("# Results\n\nOld words.\n\n## One\n\nkept\n\n## Two\n\nold\n")
    (tmp_path / "two.json").write_text(json.dumps(asdict(Report("two", "Two", {"batch": 1}))))
    monkeypatch.setattr(sys, "argv", ["results_page.py", "--results", str(tmp_path), "--out", str(page)])
    results_page.main()
    text = page.read_text()
    assert "## One\n\nkept" in text and "batch 1" in text
    assert "old" not in text and "Old words" not in text
    assert text.index("## One") < text.index("## Two")


def test_a_command_is_told_without_where_its_files_lie():
    given = ["benchmarks/b.py", "--work", "/mnt/large", "--rounds", "3", "--out", "b.json"]
    assert command_line(given) == "python benchmarks/b.py --rounds 3"


def test_phases_do_not_lie_within_each_other():
    from harness import phase

    with phase("outer"), pytest.raises(ValueError, match="begins inside 'outer'"), phase("inner"):
        pass
