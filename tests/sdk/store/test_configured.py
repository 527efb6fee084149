"""Stores with names."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgelora.errors import ReferenceFormError, StoreError, StoreNotFound
from edgelora.locations import config_dir, home
from edgelora.store import (
    add_store,
    normal_address,
    open_store,
    read_store_config,
    remove_store,
    set_default_store,
)


def test_the_default_store_is_a_mirror_below_home() -> None:
    assert read_store_config().addresses == {"local": (home() / "mirror").as_uri()}
    assert open_store().address == open_store("local").address == (home() / "mirror").as_uri()


def test_opening_a_store_to_read_writes_nothing() -> None:
    with pytest.raises(StoreNotFound, match="does not exist"):
        open_store().list_adapters()
    assert not home().exists() or list(home().iterdir()) == []


def test_an_added_store_is_found_by_its_name_and_can_be_the_default(tmp_path: Path) -> None:
    add_store("site", str(tmp_path / "a mirror"))
    assert open_store("site").address == (tmp_path / "a mirror").as_uri()
    assert set_default_store("site").default == "site"
    assert open_store().address == (tmp_path / "a mirror").as_uri()
    assert remove_store("site").default == "local"


def test_adding_the_same_store_again_changes_nothing_but_another_address_is_refused(tmp_path: Path) -> None:
    assert add_store("site", "/srv/one") == add_store("site", "file:///srv/one/")
    with pytest.raises(StoreError, match="is file:///srv/one already") as caught:
        add_store("site", "/srv/two")
    assert "edgelora stores remove site" in caught.value.fix


def test_local_can_be_moved_but_not_removed(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="local is built in"):
        remove_store("local")
    add_store("local", str(tmp_path))
    assert open_store().address == tmp_path.as_uri()
    assert remove_store("local").addresses == {"local": (home() / "mirror").as_uri()}


def test_an_unknown_name_suggests_the_nearest() -> None:
    add_store("factory", "/srv/mirror")
    with pytest.raises(StoreNotFound, match="no store is named 'factoy'") as caught:
        open_store("factoy")
    assert "did you mean factory?" in caught.value.fix


def test_a_directory_named_like_a_store_has_to_be_written_as_a_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mirror").mkdir()
    with pytest.raises(StoreNotFound) as caught:
        open_store("mirror")
    assert caught.value.fix == "write ./mirror if you mean the directory"
    assert open_store("./mirror").address == (tmp_path / "mirror").as_uri()


@pytest.mark.parametrize("name", ["file", "hf", "A", "a/b", "a:b", "", "-a"])
def test_names_that_look_like_addresses_are_refused(name: str) -> None:
    with pytest.raises(ReferenceFormError, match="cannot be the name of a store"):
        add_store(name, "/srv/mirror")


@pytest.mark.parametrize("address", ["ftp://host", "file://host/x", "https://", "https://me:secret@host"])
def test_addresses_of_other_kinds_are_refused(address: str) -> None:
    with pytest.raises(StoreError, match="is not the address of a store") as caught:
        normal_address(address)
    assert "file:///srv/mirror" in caught.value.fix


def test_the_variable_with_a_token_is_remembered_with_its_store_and_forgotten_with_it() -> None:
    add_store("fleet", "https://mirror.example", token_variable="FLEET_TOKEN")
    assert read_store_config().token_variable_of("https://mirror.example") == "FLEET_TOKEN"
    assert add_store("fleet", "https://mirror.example").token_variables == {}
    add_store("fleet", "https://mirror.example", token_variable="FLEET_TOKEN")
    assert remove_store("fleet").token_variables == {}


@pytest.mark.parametrize(
    "text",
    [
        "- a",
        "stores: [a]",
        "store: {a: /b}",
        "stores: {a: 1}",
        "stores: {a: b",
        "default: 3",
        "a: &x [*x",
        "tokens: {a: B}",
        "stores: {a: /b, a: /c}",
        "stores: &a {b: /c}\ntokens: *a",
        "stores: {<<: {b: /c}}",
        "default: 2024-13-45",
    ],
)
def test_a_damaged_configuration_is_named_and_not_overwritten(text: str) -> None:
    path = config_dir() / "stores.yaml"
    path.parent.mkdir(parents=True)
    path.write_text(text)
    with pytest.raises(StoreError, match=r"stores\.yaml cannot be read"):
        add_store("site", "/srv/mirror")
    assert path.read_text() == text
