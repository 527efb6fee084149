"""What a user calls an adapter means the same in every folder."""

from __future__ import annotations

from pathlib import Path

import pytest
from adapter_folders import write_adapter

from edgelora.bundles import create_bundle, open_bundle
from edgelora.errors import AdapterNotFound, DigestMismatch, MissingFile, ReferenceFormError
from edgelora.locations import home
from edgelora.store import is_folder_path
from edgelora.transfer import find_manifest, locate_adapter, pull, push, resolve_adapter, yank_reason


@pytest.fixture
def mirror(tmp_path: Path) -> str:
    write_adapter(tmp_path / "adapter", name="acme/decimals")
    push(tmp_path / "adapter", "acme/decimals@1.0.0", to=str(tmp_path / "mirror"))
    return str(tmp_path / "mirror")


@pytest.fixture
def clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory: it holds a folder that is named like somebody's adapter."""
    folder = tmp_path / "clone" / "acme" / "decimals"
    write_adapter(folder, name="evil/x", version="6.6.6", seed=6)
    monkeypatch.chdir(tmp_path / "clone")
    return folder


@pytest.mark.parametrize(
    "text",
    ["./acme/decimals", "../x", "/srv/a", "~/a", "runs/first/adapter", "adapter", "acme/decimals/", "."],
)
def test_a_path_is_a_path(text: str) -> None:
    assert is_folder_path(text)


@pytest.mark.parametrize(
    "text",
    [
        "acme/decimals",
        "acme/decimals@1.0.0",
        "acme/decimals@v1/x/y",
        "usb:acme/decimals",
        "file:///srv/mirror#acme/decimals",
        "hf://acme/decimals@v1",
        "Acme/Decimals",
    ],
)
def test_what_looks_like_a_reference_is_never_a_path(text: str) -> None:
    assert not is_folder_path(text)


def test_a_folder_in_a_clone_never_stands_in_for_an_adapter(mirror: str, clone: Path, tmp_path: Path) -> None:
    folder = pull("acme/decimals", mirror).folder
    assert resolve_adapter("acme/decimals") == locate_adapter("acme/decimals") == folder
    assert find_manifest("acme/decimals").identity.namespace == "acme"
    create_bundle(tmp_path / "b.edgelora", ["acme/decimals"])
    with open_bundle(tmp_path / "b.edgelora") as bundle:
        assert [str(each.reference) for each in bundle.index.adapters] == ["acme/decimals@1.0.0"]


def test_the_folder_is_meant_where_its_path_says_so(clone: Path) -> None:
    assert resolve_adapter("./acme/decimals") == resolve_adapter(Path("acme/decimals")) == clone
    assert resolve_adapter("acme/decimals/") == clone
    assert find_manifest("./acme/decimals").identity.namespace == "evil"
    assert yank_reason("./acme/decimals") is None


def test_who_meant_the_folder_is_told_how_to_write_it(mirror: str, clone: Path) -> None:
    with pytest.raises(AdapterNotFound) as caught:
        resolve_adapter(f"file://{mirror}#acme/decimal")
    assert "./" not in caught.value.fix
    (clone.parents[1] / "runs" / "Adapter").mkdir(parents=True)
    with pytest.raises(ReferenceFormError, match="'Adapter' cannot be the name of an adapter") as misspelt:
        resolve_adapter("runs/Adapter")
    assert misspelt.value.fix.endswith("; the folder here is ./runs/Adapter")


def test_a_path_that_is_not_there_says_so(clone: Path) -> None:
    with pytest.raises(MissingFile, match="there is no adapter folder runs/first/adapter"):
        resolve_adapter("runs/first/adapter")


def test_the_place_of_an_adapter_holds_no_other_one(mirror: str, tmp_path: Path) -> None:
    write_adapter(tmp_path / "evil", name="evil/x", version="9.9.9")
    push(tmp_path / "evil", "evil/x", to=mirror)
    place = home() / "adapters" / "acme" / "decimals" / "1.0.0"
    pull("evil/x", mirror, into=place)
    told = r"is the place of acme/decimals@1\.0\.0 and holds evil/x@9\.9\.9"
    for find in (resolve_adapter, locate_adapter, find_manifest):
        with pytest.raises(DigestMismatch, match=told):
            find("acme/decimals")
    with pytest.raises(DigestMismatch, match=told):
        create_bundle(tmp_path / "b.edgelora", ["acme/decimals"])
    pull("acme/decimals", mirror)
    assert resolve_adapter("acme/decimals") == place
