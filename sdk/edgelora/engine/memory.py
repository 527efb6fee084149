"""Peak memory of a run: resident set, and the GPU's allocated and reserved bytes."""

from __future__ import annotations

import resource
from contextlib import suppress
from pathlib import Path

import torch


def reset_peaks() -> None:
    """Start measuring anew, where the operating system allows it."""
    with suppress(OSError):  # only Linux, and not in every container
        Path("/proc/self/clear_refs").write_text("5")
    if torch.cuda.is_initialized():
        torch.cuda.reset_peak_memory_stats()


def peaks() -> dict[str, int]:
    """Peaks in bytes since `reset_peaks`: ``rss``, and on a GPU ``cuda_allocated`` and ``cuda_reserved``."""
    found = {"rss": _peak_rss()}
    if torch.cuda.is_initialized():  # not where a run keeps to the CPU
        found["cuda_allocated"] = torch.cuda.max_memory_allocated()
        found["cuda_reserved"] = torch.cuda.max_memory_reserved()
    return found


def resident_bytes() -> int:
    """The resident set as it is now; its peak where the operating system does not tell."""
    return _status("VmRSS:") or _peak_rss()


def resident_file_bytes() -> int:
    """Of the resident set, pages of files: code, and what is mapped; 0 where the system does not tell."""
    return _status("RssFile:") or 0


def anonymous_bytes(process: int) -> int | None:
    """Memory of a process that no file backs; None when it has ended, or the system does not tell."""
    return _status("RssAnon:", process)


def _peak_rss() -> int:
    return _status("VmHWM:") or _largest_ever()


def _status(field: str, process: int | str = "self") -> int | None:
    with suppress(OSError):
        for line in Path(f"/proc/{process}/status").read_text().splitlines():
            if line.startswith(field):
                return int(line.split()[1]) * 1024
    return None


def _largest_ever() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
