"""A real step in a process of its own, and how that process may end."""

import signal

import pytest

from edgelora.engine.estimating.measure import check_ending
from edgelora.errors import ModelError, OutOfMemory


def test_a_measured_step_that_is_killed_ran_out_of_memory():
    with pytest.raises(OutOfMemory, match=r"as it does when memory runs out, at 3\.00 GiB") as caught:
        check_ending(-signal.SIGKILL, 3 * 2**30)
    assert caught.value.exit_code == 8
    with pytest.raises(ModelError, match="ended with 1"):
        check_ending(1, 0)
    check_ending(0, 0)
