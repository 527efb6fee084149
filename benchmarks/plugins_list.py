"""How long `edgelora plugins list` takes, as a ratio to importing click, pluggy and pydantic.

Both commands start a fresh Python; runs are interleaved, so that whatever else the machine does slows both.
The goal is a ratio of at most 1.5.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path

GOAL = 1.5
PEER = [sys.executable, "-c", "import click, pluggy, pydantic"]
OURS = [
    sys.executable,
    "-c",
    "import sys; sys.argv[1:] = ['plugins', 'list']; import edgelora_cli; edgelora_cli.main()",
]


def seconds(command: list[str]) -> float:
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def measure(rounds: int) -> dict[str, object]:
    """Medians of interleaved runs, after one round that fills the caches."""
    seconds(PEER), seconds(OURS)
    peer, ours = [], []
    for _ in range(rounds):
        peer.append(seconds(PEER))
        ours.append(seconds(OURS))
    ratio = statistics.median(ours) / statistics.median(peer)
    return {
        "benchmark": "plugins_list",
        "python": platform.python_version(),
        "machine": platform.machine(),
        "rounds": rounds,
        "peer_median_s": round(statistics.median(peer), 4),
        "edgelora_median_s": round(statistics.median(ours), 4),
        "ratio": round(ratio, 3),
        "goal": GOAL,
        "met": ratio <= GOAL,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--out", type=Path, help="write the result here as JSON too")
    arguments = parser.parse_args()
    result = measure(arguments.rounds)
    if arguments.out:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print("| command | median of", arguments.rounds, "|\n|---|---|")
    print(f"| python -c 'import click, pluggy, pydantic' | {result['peer_median_s']} s |")
    print(f"| edgelora plugins list | {result['edgelora_median_s']} s |")
    print(f"| ratio (goal ≤ {GOAL}) | {result['ratio']} |")
    sys.exit(0 if result["met"] else 1)


if __name__ == "__main__":
    main()
