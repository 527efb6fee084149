"""The results page says what the benchmarks measured, and nothing else."""

import json
import sys
from dataclasses import asdict

import pytest

import results_page
from harness import Goal, Report


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
    for part in ("## A title", "sequence length 128", "| a | 1.50 |", "| at most 2 GiB | 1.5 GiB | yes |"):
        assert part in text


def test_phases_do_not_lie_within_each_other():
    from harness import phase

    with phase("outer"), pytest.raises(ValueError, match="begins inside 'outer'"), phase("inner"):
        pass
