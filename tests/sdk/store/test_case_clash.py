"""Every version can be a file of its own on every file system, in every store."""

from __future__ import annotations

from pathlib import Path

import pytest
from adapter_folders import write_adapter
from loopback_hub import LoopbackHub

from edgelora.errors import VersionExists
from edgelora.store import open_store
from edgelora.transfer import push, remove


@pytest.fixture(params=["directory", "hub"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "directory":
        return str(tmp_path / "mirror")
    hub: LoopbackHub = request.getfixturevalue("hub")
    return hub.url


@pytest.mark.parametrize(
    ("there", "new"), [("1.0.0-rc.1", "1.0.0-RC.1"), ("1.0.0+Build", "1.0.0+build"), ("1.0.0-a", "1.0.0-A")]
)
@pytest.mark.parametrize("is_removed", [False, True])
def test_versions_that_differ_in_capitals_alone_are_not_published(
    store: str, tmp_path: Path, there: str, new: str, is_removed: bool
) -> None:
    push(write_adapter(tmp_path / "a", version=there), f"alice/decimals@{there}", to=store)
    if is_removed:
        push(write_adapter(tmp_path / "c", version="3.0.0"), "alice/decimals@3.0.0", to=store)
        remove(f"alice/decimals@{there}", store)
    versions = open_store(store).versions("alice", "decimals")
    with pytest.raises(VersionExists, match="differs in capitals alone from") as caught:
        push(write_adapter(tmp_path / "b", version=new, seed=1), f"alice/decimals@{new}", to=store)
    assert there in caught.value.problem and caught.value.fix.startswith("publish it as alice/decimals@1.0.")
    assert open_store(store).versions("alice", "decimals") == versions
    assert push(tmp_path / "a", f"alice/decimals@{there}", to=store).reused or is_removed
