"""What must stay the same from the start of a run to its resumption for the result to be bitwise equal."""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import set_seed

from edgelora.errors import ResumeMismatch
from edgelora.recipe import TrainSettings

TAKEN_OVER = ("threads", "placement")
"""What a resumed run takes from its checkpoint; ``placement`` is there where a memory budget chose it."""


def fix_conditions(settings: TrainSettings, device: torch.device, processes: int) -> dict[str, Any]:
    """Set the number of threads and describe what the arithmetic depends on."""
    share = max(1, free_cores() // processes)
    threads = share if settings.threads == "auto" else settings.threads
    torch.set_num_threads(threads)
    return {
        "threads": threads,
        "processes": processes,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "kernels": torch.backends.cpu.get_cpu_capability(),
        "torch": str(torch.__version__),
        **{name: _version(name) for name in ("transformers", "accelerate", "bitsandbytes")},
    }


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "absent"


def restore_conditions(stored: dict[str, Any], current: dict[str, Any]) -> None:
    """Return to the conditions of a checkpoint: those of `TAKEN_OVER` hold on, all else must agree.

    Raises:
        ResumeMismatch: Something differs that cannot be changed from here.
    """
    for name, value in stored.items():
        if name not in TAKEN_OVER and current.get(name) != value:
            raise ResumeMismatch(
                f"the run was started with {name} {value}, and now it is {current.get(name)}: "
                "the result would not be the one of an uninterrupted run",
                fix=f"resume where {name} is {value}, or start again into another 'out'",
            )
    torch.set_num_threads(stored["threads"])


def free_cores() -> int:
    """Cores left by what else is running now, at least one.

    Threads that share a core wait for each other by spinning: two threads on a machine with one free core are
    several times slower than one.
    """
    samples = []
    for _ in range(5):
        samples.append(_others_running())
        time.sleep(0.02)
    return max(1, available_cores() - statistics.median_low(samples))


def _others_running() -> int:
    try:
        running = Path("/proc/loadavg").read_text().split()[3]
    except (OSError, IndexError):
        return 0
    return max(0, int(running.partition("/")[0]) - 1)


def available_cores() -> int:
    """Cores this process may use, by its affinity mask and its control group."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
    except (OSError, ValueError):
        return cores
    return cores if quota == "max" else max(1, min(cores, int(quota) // int(period)))


def seed_everything(seed: int, step: int, process: int = 0) -> None:
    """Make the global random state a function of seed, step and process alone.

    So no random state has to be stored, and nothing that draws numbers between two steps can change the next.
    """
    digest = hashlib.sha256(f"{seed}/{step}/{process}".encode()).digest()
    set_seed(int.from_bytes(digest[:4], "big"))
