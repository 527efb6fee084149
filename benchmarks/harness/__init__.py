"""What benchmarks share: arms in fresh processes, memory samples, a memory cgroup, cold files, reports."""

from harness.arms import Arm, ArmFailed, interleave, median, peak, run_arm
from harness.cgroup import CgroupUnavailable, MemoryCgroup, memory_cgroup
from harness.machine import machine, versions
from harness.memory import MemorySampler, memory_of
from harness.page_cache import drop_from_page_cache, warm_page_cache
from harness.phases import phase
from harness.report import Goal, Report, table

__all__ = [
    "Arm",
    "ArmFailed",
    "CgroupUnavailable",
    "Goal",
    "MemoryCgroup",
    "MemorySampler",
    "Report",
    "drop_from_page_cache",
    "interleave",
    "machine",
    "median",
    "memory_cgroup",
    "memory_of",
    "peak",
    "phase",
    "run_arm",
    "table",
    "versions",
    "warm_page_cache",
]
