"""kill -9 at random moments of an import: what is published is whole, and the next try goes on."""

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

from edgelora.bases import bases_folder
from edgelora.bundles import create_bundle, import_bundle
from edgelora.manifest.base_identity import identify_base
from edgelora.store import DirectoryStore
from edgelora.transfer import pull, push
from edgelora.verify import verify

_ROUNDS = int(os.environ.get("EDGELORA_ROUNDS", "20"))
_ROWS = 40_000
"""About 5 MB of weights in each adapter."""

pytestmark = pytest.mark.parametrize(
    "rounds", [2, pytest.param(_ROUNDS, marks=pytest.mark.acceptance, id="all")]
)


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    for number in range(2):
        folder = write_adapter(tmp_path / f"a{number}", version=f"1.{number}.0", rows=_ROWS, seed=number)
        push(folder, "alice/decimals", to=str(tmp_path / "source"))
    references = ["alice/decimals@1.0.0", "alice/decimals@1.1.0"]
    return create_bundle(
        tmp_path / "in.edgelora", references, bases=["micro"], source=str(tmp_path / "source")
    ).path


def start(bundle: Path, mirror: Path) -> subprocess.Popen[str]:
    program = (
        "import sys; from pathlib import Path; from edgelora.bundles import import_bundle\n"
        "print('ready', flush=True); sys.stdin.readline()\n"
        f"import_bundle(Path({str(bundle)!r}), {str(mirror)!r})\nprint('done', flush=True)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout and process.stdin
    assert process.stdout.readline() == "ready\n"
    process.stdin.write("go\n")
    process.stdin.flush()
    return process


def test_a_killed_import_publishes_nothing_torn_and_the_next_one_goes_on(
    tmp_path: Path, bundle: Path, rounds: int
) -> None:
    mirror, rng = tmp_path / "mirror", random.Random(7)
    with start(bundle, mirror) as process:
        begun = time.monotonic()
        assert process.stdout and process.stdout.readline() == "done\n"
        longest_s = time.monotonic() - begun
    total = bundle.stat().st_size
    killed = visible = saved = 0
    while killed < rounds:
        shutil.rmtree(mirror, ignore_errors=True)
        shutil.rmtree(bases_folder(), ignore_errors=True)
        with start(bundle, mirror) as process:
            time.sleep(rng.uniform(0, longest_s))
            process.kill()
            assert process.stdout
            if process.stdout.read():
                continue
        killed += 1
        if mirror.exists() and (mirror / "VERSION").exists():
            store = DirectoryStore(mirror)
            assert store.fsck().problems == ()
            for version in store.versions("alice", "decimals"):
                visible += 1
                shutil.rmtree(tmp_path / "got", ignore_errors=True)
                pulled = pull(f"alice/decimals@{version}", str(mirror), tmp_path / "got")
                assert verify(pulled.folder) == []
        for place in bases_folder().glob("[0-9a-f]*"):
            assert identify_base(place, rehash=True).tensors_digest == f"sha256:{place.name}"
        done = import_bundle(bundle, str(mirror))
        saved += done.copied_bytes < total - 64 * 2**10
        assert done.adapters == ("alice/decimals@1.0.0", "alice/decimals@1.1.0")
        report = DirectoryStore(mirror).fsck()
        assert (report.problems, report.unfinished) == ((), 0)
        assert [place.name for place in bases_folder().iterdir()] == [done.bases[0].removeprefix("sha256:")]
        assert import_bundle(bundle, str(mirror)).copied_bytes == 0
    print(f"import: {killed} killed at work, {visible} versions visible, {saved} continued")
