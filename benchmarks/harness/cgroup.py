"""A memory control group of Linux, version 1 or 2, made for one benchmark and removed after it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")


class CgroupUnavailable(RuntimeError):
    """No memory cgroup can be made here; the text says why."""


@dataclass(frozen=True, slots=True)
class MemoryCgroup:
    """A cgroup whose processes, with the page cache they fill, may take so much memory together."""

    folder: Path
    version: int

    def inside(self, command: Sequence[str]) -> list[str]:
        """``command``, started inside the group by a shell that becomes it."""
        return ["sh", "-c", 'echo $$ > "$0" && exec "$@"', str(self.folder / "cgroup.procs"), *command]

    def counters(self) -> dict[str, int]:
        """``peak_bytes`` the kernel counted, ``limit_hits``, and ``killed`` processes; those it tells."""
        if self.version == 1:
            found = {
                "peak_bytes": self._number("memory.max_usage_in_bytes"),
                "limit_hits": self._number("memory.failcnt"),
                "killed": self._member("memory.oom_control", "oom_kill"),
            }
        else:
            found = {
                "peak_bytes": self._number("memory.peak"),
                "limit_hits": self._member("memory.events", "max"),
                "killed": self._member("memory.events", "oom_kill"),
            }
        return {name: value for name, value in found.items() if value is not None}

    def _number(self, name: str) -> int | None:
        path = self.folder / name
        return int(path.read_text()) if path.exists() else None

    def _member(self, name: str, key: str) -> int | None:
        path = self.folder / name
        lines = path.read_text().splitlines() if path.exists() else []
        return next((int(line.split()[1]) for line in lines if line.split()[0] == key), None)


@contextmanager
def memory_cgroup(limit_bytes: int, root: Path = ROOT) -> Iterator[MemoryCgroup]:
    """A cgroup with a limit on memory and none of swap, empty and removed when the block ends.

    Args:
        limit_bytes: Of anonymous memory and page cache together.
        root: Where the control groups of the machine are mounted.

    Raises:
        CgroupUnavailable: This user may not make one, or the kernel has none.
    """
    group = _make(limit_bytes, root)
    try:
        yield group
    finally:
        with suppress(OSError):
            group.folder.rmdir()


def _make(limit_bytes: int, root: Path) -> MemoryCgroup:
    version, parent = (1, root / "memory") if (root / "memory").is_dir() else (2, root)
    name = "memory.limit_in_bytes" if version == 1 else "memory.max"
    folder = parent / f"edgelora-benchmark-{os.getpid()}"
    try:
        if version == 2 and "memory" not in (root / "cgroup.subtree_control").read_text().split():
            (root / "cgroup.subtree_control").write_text("+memory")
        folder.mkdir()
    except OSError as error:
        raise CgroupUnavailable(f"no memory cgroup can be made under {parent}: {error.strerror}") from error
    try:
        (folder / name).write_text(str(limit_bytes))
        swap = folder / ("memory.memsw.limit_in_bytes" if version == 1 else "memory.swap.max")
        if swap.exists():
            swap.write_text(str(limit_bytes) if version == 1 else "0")
    except OSError as error:
        folder.rmdir()
        raise CgroupUnavailable(f"the kernel refuses {name}: {error.strerror}") from error
    return MemoryCgroup(folder, version)
