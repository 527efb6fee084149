"""What a pull, a list and a search say of versions that their publisher withdrew."""

from __future__ import annotations

from pathlib import Path

import pytest
from adapter_folders import write_adapter

from edgelora.errors import Yanked
from edgelora.transfer import list_published, pull, push, search, unyank, yank, yank_reason
from edgelora.verify import verify

WHY = "answers 9.11 again"


@pytest.fixture
def mirror(tmp_path: Path) -> str:
    for version in ("1.0.0", "1.1.0"):
        push(
            write_adapter(tmp_path / version, version=version), "alice/decimals", to=str(tmp_path / "mirror")
        )
    return str(tmp_path / "mirror")


def test_pulling_a_yanked_version_is_refused_with_the_reason(mirror: str) -> None:
    yank("alice/decimals@1.1.0", WHY, mirror)
    with pytest.raises(
        Yanked, match=r"alice/decimals@1\.1\.0 was yanked by its publisher: answers 9\.11"
    ) as caught:
        pull("alice/decimals@1.1.0", mirror)
    assert (caught.value.exit_code, caught.value.id) == (6, "yanked")
    assert caught.value.fix == "pull another version, or take it knowingly with --allow-yanked"
    assert pull("alice/decimals", mirror).reference == "alice/decimals@1.0.0"


def test_who_names_it_knowingly_gets_it(mirror: str) -> None:
    yank("alice/decimals@1.1.0", WHY, mirror)
    pulled = pull("alice/decimals@1.1.0", mirror, allow_yanked=True)
    assert pulled.yanked == WHY
    assert verify(pulled.folder) == []


def test_a_pull_tells_that_the_copy_on_this_machine_was_yanked(mirror: str) -> None:
    folder = pull("alice/decimals@1.1.0", mirror).folder
    yank("alice/decimals@1.1.0", WHY, mirror)
    with pytest.raises(Yanked, match="it is on this machine, in ") as caught:
        pull("alice/decimals@1.1.0", mirror)
    assert "remove this one" in caught.value.fix
    assert verify(folder) == [], "a copy is never changed behind its owner's back, and verify is offline"
    pulled = pull("alice/decimals", mirror)
    assert (pulled.reference, pulled.yanked) == ("alice/decimals@1.0.0", None)
    assert pulled.yanked_here == {"alice/decimals@1.1.0": WHY}


def test_another_stores_version_of_the_same_name_is_not_told_to_be_yanked(
    mirror: str, tmp_path: Path
) -> None:
    push(
        write_adapter(tmp_path / "else", version="1.1.0", seed=3),
        "alice/decimals",
        to=str(tmp_path / "other"),
    )
    pull("alice/decimals@1.1.0", str(tmp_path / "other"))
    yank("alice/decimals@1.1.0", WHY, mirror)
    assert pull("alice/decimals", mirror).yanked_here == {}


def test_lists_and_searches_pass_over_yanked_versions_and_tell_of_them(mirror: str) -> None:
    assert yank("alice/decimals@1.1.0", WHY, mirror).reference == "alice/decimals@1.1.0"
    (found,) = list_published(mirror)
    assert (found.reference, found.yanked) == ("alice/decimals@1.0.0", {"1.1.0": WHY})
    yank("alice/decimals@1.0.0", WHY, mirror)
    (found,) = search("decimals", mirror)
    assert (found.reference, set(found.yanked)) == ("alice/decimals@1.1.0", {"1.0.0", "1.1.0"})


def test_a_withdrawal_can_be_taken_back(mirror: str) -> None:
    yank("alice/decimals@1.1.0", WHY, mirror)
    assert yank_reason("alice/decimals@1.1.0", mirror) == WHY
    assert unyank("alice/decimals@1.1.0", mirror).yanked is None
    assert yank_reason("alice/decimals@1.1.0", mirror) is None
    assert pull("alice/decimals", mirror).reference == "alice/decimals@1.1.0"
