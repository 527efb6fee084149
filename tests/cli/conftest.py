import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from edgelora_cli import run_command


@dataclass(frozen=True)
class Ran:
    exit_code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        return json.loads(self.out)


@pytest.fixture
def edgelora(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Any:
    """Run a command line in this process, in an empty folder, with a home of its own."""
    monkeypatch.setenv("EDGELORA_HOME", str(tmp_path / "home"))
    for variable in ("EDGELORA_ONLY", "EDGELORA_BLOCK"):
        monkeypatch.delenv(variable, raising=False)
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)

    def run(*arguments: str) -> Ran:
        capfd.readouterr()
        exit_code = run_command(arguments)
        out, err = capfd.readouterr()
        return Ran(exit_code, out, err)

    return run
