"""How long `edgelora verify` takes for an adapter of 1 GiB, against `hashlib.file_digest` of the same bytes.

The command is a fresh process each time, start and all; the peer hashes the same file in this process. Runs
are interleaved, so that whatever else the machine does slows both; the file is in the page cache for both.
The goal is at most 1.15 times the peer, plus 0.25 s for starting.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import platform
import random
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from edgelora.manifest import (
    MANIFEST_NAME,
    Base,
    Component,
    DerivativeRef,
    Identity,
    Manifest,
    PartRef,
    describe_files,
    manifest_bytes,
    summarize_tensors,
    tree_digest,
)

FACTOR, START_S = 1.15, 0.25
WEIGHTS = "adapter_model.safetensors"
VERIFY = [
    sys.executable,
    "-c",
    "import sys, edgelora_cli; sys.exit(edgelora_cli.run_command(sys.argv[1:]))",
    "verify",
]


def write_adapter(folder: Path, size_bytes: int) -> None:
    """A sound adapter whose weights are one file of about this size."""
    site, width = "model.layers.0.self_attn.q_proj", 4096
    rank = size_bytes // (2 * 4 * width)
    half = rank * width * 4
    header = {
        f"base_model.model.{site}.lora_{factor}.weight": {
            "dtype": "F32",
            "shape": shape,
            "data_offsets": [index * half, (index + 1) * half],
        }
        for index, (factor, shape) in enumerate({"A": [rank, width], "B": [width, rank]}.items())
    }
    text = json.dumps(header).encode()
    piece = random.Random(0).randbytes(width * 4)
    with open(folder / WEIGHTS, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for _ in range(2 * rank):
            file.write(piece)
    files = tuple(describe_files(folder))
    digest = "sha256:" + "0" * 64
    part = PartRef(name="lora", plugin="lora", distribution="edgelora", version="0.1.0")
    component = Component(
        id="main",
        derivative=DerivativeRef(name="lora"),
        parts={"adapter": part},
        config={"r": rank, "alpha": rank, "targetModules": [site]},
        files=(WEIGHTS,),
        dtype="F32",
    )
    manifest = Manifest(
        identity=Identity(
            namespace="bench",
            name="big",
            version="1.0.0",
            created_at="2026-01-01T00:00:00Z",
            release_sequence=1,
        ),
        base=Base(repo="none", architecture="None", tensors_digest=digest, config_digest=digest),
        components=(component,),
        files=files,
        tree_digest=tree_digest(files),
        tensors=summarize_tensors(folder, files),
        license="Apache-2.0",
    )
    (folder / MANIFEST_NAME).write_bytes(manifest_bytes(manifest))


def verify_s(folder: Path) -> float:
    """Seconds of the whole command."""
    start = time.perf_counter()
    subprocess.run([*VERIFY, str(folder)], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def digest_s(path: Path) -> float:
    """Seconds of hashing one file."""
    start = time.perf_counter()
    with open(path, "rb") as file:
        hashlib.file_digest(file, "sha256")
    return time.perf_counter() - start


def measure(folder: Path, rounds: int) -> dict[str, object]:
    """Medians of interleaved runs, after one round that fills the caches."""
    path = folder / WEIGHTS
    digest_s(path), verify_s(folder)
    peer, ours = [], []
    for _ in range(rounds):
        peer.append(digest_s(path))
        ours.append(verify_s(folder))
    peer_s, ours_s = statistics.median(peer), statistics.median(ours)
    goal_s = FACTOR * peer_s + START_S
    return {
        "benchmark": "verify_speed",
        "python": platform.python_version(),
        "machine": platform.machine(),
        "rounds": rounds,
        "size_bytes": path.stat().st_size,
        "peer_median_s": round(peer_s, 3),
        "edgelora_median_s": round(ours_s, 3),
        "ratio": round(ours_s / peer_s, 3),
        "goal_s": round(goal_s, 3),
        "met": ours_s <= goal_s,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--mib", type=int, default=1024, help="size of the weights")
    parser.add_argument("--out", type=Path, help="write the result here as JSON too")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="edgelora-bench-") as temporary:
        write_adapter(Path(temporary), arguments.mib * 2**20)
        result = measure(Path(temporary), arguments.rounds)
    if arguments.out:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))
    sys.exit(0 if result["met"] else 1)


if __name__ == "__main__":
    main()
