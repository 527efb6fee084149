"""What stands beside every figure: the machine and the versions."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from contextlib import suppress
from pathlib import Path

DISTRIBUTIONS = ("edgelora", "torch", "transformers", "bitsandbytes", "peft", "accelerate")
INSTRUCTIONS = ("avx2", "avx512f", "avx512_bf16", "avx512_vnni", "amx_bf16", "bf16", "sve")


def machine() -> dict[str, str | int | float]:
    """Processor, its vector instructions, usable cores, memory, kernel."""
    described: dict[str, str | int | float] = {
        "processor": _processor() or platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30, 1),
        "system": f"{platform.system()} {platform.release()}",
        "load_at_start": round(os.getloadavg()[0], 2),
    }
    flags = set((_cpuinfo("flags") or _cpuinfo("Features") or "").split())
    if known := [name for name in INSTRUCTIONS if name in flags]:
        described["instructions"] = " ".join(known)
    return described


def versions() -> dict[str, str]:
    """Python's and those of the distributions that are installed."""
    found = {"python": platform.python_version()}
    for name in DISTRIBUTIONS:
        with suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def _processor() -> str | None:
    return _cpuinfo("model name")


def _cpuinfo(key: str) -> str | None:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return None
    members = (line.partition(":") for line in lines)
    return next((value.strip() for name, _, value in members if name.strip() == key), None)
