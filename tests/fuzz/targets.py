"""For any bytes: a manifest or an error on purpose, and the same answer as the foreign reader's.

``python tests/fuzz/targets.py SECONDS [TARGET…]`` looks for counterexamples for so long per target.
"""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from types import ModuleType
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from hypothesis import HealthCheck, given, seed, settings
from mutation import manifests, paths, weights

from edgelora.errors import EdgeloraError, ManifestError, PathError
from edgelora.manifest import check_paths, manifest_bytes, parse_manifest
from edgelora.manifest.tensors import header_of

STRICT = ModuleType("strict_reader")
PROGRAM = Path(__file__).parents[2] / "examples" / "strict_reader.py"
exec(compile(PROGRAM.read_bytes(), str(PROGRAM), "exec"), STRICT.__dict__)
MAX_CPU_S = 10.0


def accepts(read: Callable[[Any], object], refusal: type[Exception], data: Any) -> bool:
    """Whether a reader takes what it is given; only a refusal on purpose counts as no."""
    started = time.process_time()
    try:
        read(data)
        return True
    except refusal:
        return False
    finally:
        assert time.process_time() - started < MAX_CPU_S


def check_manifest(data: bytes) -> None:
    """Both readers agree; what is accepted can be written and read again, or is refused on purpose."""
    ours = accepts(parse_manifest, EdgeloraError, data)
    assert ours == accepts(STRICT.read_manifest, STRICT.Refused, data)
    if ours:
        manifest = parse_manifest(data)
        try:
            written = manifest_bytes(manifest)
        except ManifestError as error:
            assert "is not a member of" in error.problem or "SPDX" in error.problem
        else:
            assert parse_manifest(written) == manifest


def check_weights(data: bytes) -> None:
    """Both readers agree; what is accepted lies within the file."""
    ours = accepts(lambda given: header_of(BytesIO(given), "fuzz"), EdgeloraError, data)
    assert ours == accepts(STRICT.read_header, STRICT.Refused, data)
    if ours:
        entries = header_of(BytesIO(data), "fuzz").values()
        assert all(8 <= entry.start <= entry.end <= len(data) for entry in entries)


def check_names(given: list[str]) -> None:
    """Both readers agree; clashes do not depend on the order."""
    ours = accepts(check_paths, PathError, given)
    assert ours == accepts(STRICT.check_paths, STRICT.Refused, given)
    assert ours == accepts(check_paths, PathError, given[::-1])


TARGETS: dict[str, tuple[Any, Callable[[Any], None]]] = {
    "manifest": (manifests(), check_manifest),
    "weights": (weights(), check_weights),
    "paths": (paths, check_names),
}
QUIET = list(HealthCheck)


def fuzz(target: str, seconds: float, *, first_seed: int) -> int:
    """Run a target for a while; how many inputs it saw.

    Raises:
        AssertionError: There is a counterexample; hypothesis prints the smallest.
    """
    strategy, check = TARGETS[target]
    deadline, count, number = time.monotonic() + seconds, 0, first_seed

    def counted(data: Any) -> None:
        nonlocal count
        count += 1
        check(data)

    while time.monotonic() < deadline:
        run = settings(max_examples=2000, deadline=None, database=None, suppress_health_check=QUIET)
        seed(number)(run(given(strategy)(counted)))()
        number += 1
    return count


def main(seconds: str, *chosen: str) -> None:
    """The command."""
    for target in chosen or TARGETS:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        count = fuzz(target, float(seconds), first_seed=time.time_ns() % 2**32)
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
        print(
            f"{target}: {count} inputs in {seconds} s, no counterexample, {grown:.0f} MiB more memory",
            flush=True,
        )


if __name__ == "__main__":
    main(*sys.argv[1:])
