"""A short, deterministic run of every fuzz target, and inputs that are costly rather than wrong."""

from __future__ import annotations

import importlib.util
import json
import resource
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given, settings

HERE = Path(__file__).parent
specification = importlib.util.spec_from_file_location("fuzz_targets", HERE / "targets.py")
assert specification and specification.loader
targets = importlib.util.module_from_spec(specification)
sys.modules["fuzz_targets"] = targets
specification.loader.exec_module(targets)


@pytest.mark.parametrize("target", targets.TARGETS)
def test_short_run_finds_nothing(target: str) -> None:
    strategy, check = targets.TARGETS[target]
    run = settings(
        max_examples=300,
        derandomize=True,
        deadline=None,
        database=None,
        suppress_health_check=targets.QUIET,
    )
    run(given(strategy)(check))()


MINIMAL = json.loads(
    (targets.PROGRAM.parents[1] / "spec/v1/vectors/manifests/valid/minimal.json").read_bytes()
)
COMPONENT = MINIMAL["components"][0]
COSTLY = {
    "entries of a wrong type": {**MINIMAL, "languages": [1] * 500_000},
    "entries of a wrong form": {**MINIMAL, "languages": ["e"] * 250_000},
    "files without members": {**MINIMAL, "files": [{}] * 300_000},
    "files of the base without members": {**MINIMAL, "base": {**MINIMAL["base"], "weights": [{}] * 300_000}},
    "inputs of nothing": {**MINIMAL, "composition": {"op": "single", "inputs": [{}] * 300_000}},
    "parts of no kind": {
        **MINIMAL,
        "components": [{**COMPONENT, "parts": {f"p{n}": {} for n in range(60_000)}}],
    },
    "unknown members": {**MINIMAL, **{f"x{n}": 0 for n in range(80_000)}},
    "features": {**MINIMAL, "requires": ["plugin"] * 80_000},
    "ranks of a wrong type": {
        **MINIMAL,
        "components": [{**COMPONENT, "config": {"rankPattern": {f"x{n}": "a" for n in range(60_000)}}}],
    },
}


@pytest.mark.parametrize("cost", COSTLY)
def test_megabyte_of_mistakes_costs_seconds_and_little_memory(cost: str) -> None:
    data = json.dumps(COSTLY[cost], separators=(",", ":")).encode()
    assert 600_000 < len(data) <= 2**20
    before, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    targets.accepts(targets.parse_manifest, targets.EdgeloraError, data)
    assert time.process_time() - started < 5
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200 * 1024
