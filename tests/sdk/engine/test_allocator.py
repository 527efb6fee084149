"""What is freed goes back to the system, whatever small things are kept in between."""

import ctypes
import subprocess
import sys

import pytest

CHILD = """
import sys
from edgelora.engine.allocator import return_freed_memory

def anonymous():
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("RssAnon")) * 1024

print(return_freed_memory())
before = anonymous()
kept = []
for _ in range(30):
    big = [bytearray(3 * 2**20) for _ in range(4)]
    kept.append(bytearray(4096))
    del big
print(anonymous() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_holes_between_small_things_are_not_kept():
    told = subprocess.run([sys.executable, "-c", CHILD], capture_output=True, text=True, check=True)
    took_the_advice, kept = told.stdout.split()
    if took_the_advice == "False":
        pytest.skip("this C library takes no advice")
    assert int(kept) < 2 * 2**20


def test_a_limit_from_the_environment_stays(monkeypatch):
    from edgelora.engine.allocator import return_freed_memory

    monkeypatch.setenv("MALLOC_MMAP_THRESHOLD_", "1048576")
    assert return_freed_memory() is False


HOLES = """
from edgelora.engine.allocator import return_holes

def anonymous():
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("RssAnon")) * 1024

small, kept = [], []
for _ in range(600):
    small.append(bytearray(100_000))
    kept.append(bytearray(5000))
before = anonymous()
del small
return_holes()
print(before - anonymous())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_holes_that_are_there_are_given_back():
    told = subprocess.run([sys.executable, "-c", HOLES], capture_output=True, text=True, check=True)
    if not hasattr(ctypes.CDLL(None), "malloc_trim"):
        pytest.skip("this C library takes no advice")
    assert int(told.stdout) > 40 * 2**20


def test_beside_large_blocks_activations_stay_in_the_heap():
    from edgelora.engine.allocator import own_pages_bytes

    assert own_pages_bytes(8 * 2**20) == 128 * 2**10
    activation = 128 * 14336 * 2  # of Llama-3.1-8B
    assert own_pages_bytes(112 * 2**20) > activation
