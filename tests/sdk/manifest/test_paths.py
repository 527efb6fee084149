"""File names of adapters are looked at once, and strangers cannot fill the memory with theirs."""

import pytest

from edgelora.errors import PathError
from edgelora.manifest import paths


def test_names_are_remembered_and_no_longer_ones_than_any_that_is_allowed():
    paths._reason_to_refuse.cache_clear()
    paths.check_path("adapter_model.safetensors")
    paths.check_path("adapter_model.safetensors")
    assert paths._reason_to_refuse.cache_info().hits == 1
    for _ in range(2):
        with pytest.raises(PathError, match="longer than 1024 bytes"):
            paths.check_path("a/" * 1024)
    assert paths._reason_to_refuse.cache_info().currsize == 1
