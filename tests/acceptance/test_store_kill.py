"""kill -9 at random moments of a push and of a pull: nothing torn is ever visible, and the next try succeeds.

Bar 5 of the first release: 20 rounds of each, with an adapter of several megabytes and a real disk.
"""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from adapter_folders import write_adapter

from edgelora.store import DirectoryStore
from edgelora.transfer import list_adapters, list_published, pull, push
from edgelora.verify import verify

_ROUNDS = int(os.environ.get("EDGELORA_ROUNDS", "20"))
_ROWS = 40_000
"""About 5 MB of weights, and as much again beside them."""

pytestmark = pytest.mark.parametrize(
    "rounds", [2, pytest.param(_ROUNDS, marks=pytest.mark.acceptance, id="all")]
)


class Victim:
    """Pushes or pulls in processes of its own, which say when they begin and may be killed."""

    def __init__(self, program: str, prepare: str) -> None:
        self._program = (
            "import sys; from pathlib import Path; from edgelora.transfer import push, pull\n"
            f"{prepare}\nprint('ready', flush=True); sys.stdin.readline()\n"
            f"{program}\nprint('done', flush=True)\n"
        )
        self._rng = random.Random(5)

    def duration_s(self) -> float:
        """How long it takes undisturbed."""
        with self._start() as process:
            start = time.monotonic()
            assert process.stdout and process.stdout.readline() == "done\n"
            return time.monotonic() - start

    def run_and_kill(self, longest_s: float) -> bool:
        """Start it and kill it at a random moment of ``longest_s``; whether it was still at work."""
        with self._start() as process:
            time.sleep(self._rng.uniform(0, longest_s))
            process.kill()
            assert process.stdout
            return process.stdout.read() == ""

    def _start(self) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", self._program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert process.stdout and process.stdin
        assert process.stdout.readline() == "ready\n"
        process.stdin.write("go\n")
        process.stdin.flush()
        return process


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    noise = random.Random(1).randbytes(5_000_000)
    return write_adapter(tmp_path / "adapter", rows=_ROWS, extra={"notes.txt": noise.hex().encode()})


def test_a_killed_push_leaves_the_mirror_sound_and_the_next_one_succeeds(
    tmp_path: Path, adapter: Path, rounds: int
) -> None:
    mirror = tmp_path / "mirror"
    push(write_adapter(tmp_path / "older", version="0.9.0"), "alice/decimals", to=str(mirror))
    template = shutil.copytree(mirror, tmp_path / "template")
    victim = Victim(
        f"push(Path({str(adapter)!r}), 'alice/decimals@1.0.0', to={str(mirror)!r})", "import edgelora.verify"
    )
    longest_s = victim.duration_s()
    killed = torn = visible = 0
    while killed < rounds:
        shutil.rmtree(mirror)
        shutil.copytree(template, mirror)
        # Each round is another history of the mirror, which whoever pulled in the one before would refuse.
        shutil.rmtree(Path(os.environ["EDGELORA_HOME"]) / "state", ignore_errors=True)
        store = DirectoryStore(mirror)
        if not victim.run_and_kill(longest_s):
            assert "1.0.0" in store.versions("alice", "decimals"), "what was acknowledged is lost"
            continue
        killed += 1
        assert store.fsck().problems == ()
        assert all(found.problem is None for found in list_published(str(mirror)))
        if "1.0.0" in store.versions("alice", "decimals"):
            visible += 1
            shutil.rmtree(tmp_path / "got", ignore_errors=True)
            torn += verify(pull("alice/decimals@1.0.0", str(mirror), tmp_path / "got").folder) != []
        assert push(adapter, "alice/decimals@1.0.0", to=str(mirror)).reference == "alice/decimals@1.0.0"
        report = store.fsck()
        assert (report.problems, report.unfinished) == ((), 0)
    print(f"push: {killed} killed at work, {visible} visible, {torn} torn")
    assert torn == 0


def test_a_killed_pull_leaves_no_torn_adapter_and_the_next_one_goes_on(
    tmp_path: Path, adapter: Path, rounds: int
) -> None:
    mirror = tmp_path / "mirror"
    total = push(adapter, "alice/decimals", to=str(mirror)).bytes
    home = Path(os.environ["EDGELORA_HOME"])
    folder = home / "adapters/alice/decimals/1.0.0"
    victim = Victim(f"pull('alice/decimals', {str(mirror)!r})", "import edgelora.verify")
    longest_s = victim.duration_s()
    killed = visible = saved = 0
    while killed < rounds:
        shutil.rmtree(home, ignore_errors=True)
        if not victim.run_and_kill(longest_s):
            continue
        killed += 1
        if folder.exists():
            visible += 1
            assert verify(folder) == []
        assert all(found.problem is None for found in list_adapters())
        pulled = pull("alice/decimals", str(mirror))
        saved += pulled.fetched_bytes < total - 4096
        assert verify(pulled.folder) == []
        assert os.listdir(folder.parent) == ["1.0.0"]
    print(f"pull: {killed} killed at work, {visible} visible, {saved} continued")
    assert DirectoryStore(mirror).fsck().is_clean
