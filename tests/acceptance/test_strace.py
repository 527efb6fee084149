"""In which order a push and a pull reach the disk, seen by strace: what a crash of the machine can find.

tests/sdk/store/test_durability.py sees the same by recording Python's calls; here the kernel is asked.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from adapter_folders import write_adapter
from loopback_hub import LoopbackHub

from edgelora.transfer import push

pytestmark = pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")

FILES = ("README.md", "adapter_config.json", "adapter_model.safetensors", "deep/notes.txt")
_CALLS = "trace=fsync,fdatasync,rename,renameat,renameat2,link,linkat"


@dataclass(frozen=True)
class Call:
    """One call that succeeded: ``sync`` of a path, or ``move`` of one to another."""

    kind: str
    paths: tuple[str, ...]


def traced(program: str, folder: Path) -> list[Call]:
    """The calls of a Python program, in the order in which they returned."""
    trace = folder / "trace"
    environment = {name: value for name, value in os.environ.items() if not name.endswith("_OFFLINE")}
    done = subprocess.run(
        [
            "strace",
            "-f",
            "-y",
            "-s",
            "4096",
            "-qq",
            "-e",
            _CALLS,
            "-o",
            str(trace),
            sys.executable,
            "-c",
            program,
        ],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    if "ptrace" in done.stderr.lower():
        pytest.skip("this machine does not let processes be traced")
    assert done.returncode == 0, done.stderr
    return [call for line in _finished(trace.read_text()) if (call := _call(line))]


def _finished(trace: str) -> list[str]:
    """Lines of calls that succeeded; those that threads interrupted are put together again."""
    begun: dict[str, str] = {}
    lines = []
    for line in trace.splitlines():
        pid, _, call = line.partition(" ")
        call = call.strip()
        if call.endswith("<unfinished ...>"):
            begun[pid] = call.removesuffix("<unfinished ...>").rstrip()
            continue
        if "resumed>" in call:
            call = begun.pop(pid, "") + call.partition("resumed>")[2]
        if re.search(r"=\s+0$", call):
            lines.append(call)
    return lines


def _call(line: str) -> Call | None:
    if line.startswith(("fsync", "fdatasync")):
        return Call("sync", (line.partition("<")[2].rpartition(">")[0],))
    if line.startswith("rename"):
        return Call("move", tuple(re.findall(r'"([^"]*)"', line)))
    return None


def is_synced(path: Path | str, calls: list[Call]) -> bool:
    return Call("sync", (str(path),)) in calls


def check_moves(calls: list[Call], below: Path) -> list[Path]:
    """Each file below a folder is synced before its rename, and its folder before the next; the targets."""
    moves = [
        n for n, call in enumerate(calls) if call.kind == "move" and call.paths[-1].startswith(f"{below}/")
    ]
    for this, following in zip(moves, [*moves[1:], len(calls)], strict=True):
        source, target = calls[this].paths
        assert is_synced(source, calls[:this]), f"{source} was renamed before it was synced"
        assert is_synced(Path(target).parent, calls[this:following]), f"{target} may be lost"
    return [Path(calls[move].paths[1]).relative_to(below) for move in moves]


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    return write_adapter(tmp_path / "adapter", rows=2048, extra={"deep/notes.txt": b"notes"})


def test_a_push_syncs_blobs_then_the_commit_then_the_tag_then_main(adapter: Path, tmp_path: Path) -> None:
    mirror = tmp_path / "mirror"
    program = (
        "from pathlib import Path; from edgelora.transfer import push\n"
        f"push(Path({str(adapter)!r}), 'alice/decimals', to={str(mirror)!r})"
    )
    targets = [path.parts for path in check_moves(traced(program, tmp_path), mirror)]
    kinds = [parts[-2] if parts[0] == "repos" else parts[0] for parts in targets]
    assert kinds == ["VERSION", *["blobs"] * 5, "alice--decimals", "commits", "tags", "heads"]


@pytest.mark.parametrize("is_remote", [False, True], ids=["directory", "hub"])
def test_a_pull_syncs_every_file_before_the_folder_is_put_in_place(
    adapter: Path, tmp_path: Path, hub: LoopbackHub, is_remote: bool
) -> None:
    store = hub.url if is_remote else str(tmp_path / "mirror")
    push(adapter, "alice/decimals", to=store)
    calls = traced(f"from edgelora.transfer import pull; pull('alice/decimals', {store!r})", tmp_path)
    place = Path(os.environ["EDGELORA_HOME"]) / "adapters/alice/decimals/1.0.0"
    staged = place.parent / ".1.0.0.pulling/adapter"
    [placed] = [n for n, call in enumerate(calls) if call == Call("move", (str(staged), str(place)))]
    for name in (*FILES, "edgelora.json"):
        [moved] = [
            n for n, call in enumerate(calls) if call.kind == "move" and call.paths[1] == str(staged / name)
        ]
        assert is_synced(calls[moved].paths[0], calls[:moved]), f"{name} was renamed before it was synced"
        assert is_synced((staged / name).parent, calls[moved:placed]), f"{name} may be lost"
    assert is_synced(place.parent, calls[placed:])
