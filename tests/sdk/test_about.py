"""What a recipe says about its adapter, and where the manifest and `push` repeat it."""

from __future__ import annotations

from pathlib import Path

import pytest
from adapter_folders import write_adapter

from edgelora.about import UNSPECIFIED_LICENSE, is_unspecified, license_expression
from edgelora.errors import RecipeError, VersionExists
from edgelora.manifest import DerivedFrom, Manifest, read_manifest
from edgelora.recipe import About, make_recipe
from edgelora.transfer import find_manifest, pull, push

DIGEST = "sha256:" + "1" * 64


def about(**members: object) -> About:
    return make_recipe({"base": "micro", "about": members}).about


def test_a_licence_is_an_spdx_expression_as_spdx_writes_it() -> None:
    assert about(license="apache-2.0 or mit").license == "Apache-2.0 OR MIT"
    assert about(license="LicenseRef-acme-internal").license == "LicenseRef-acme-internal"
    with pytest.raises(RecipeError, match=r"'other' is not an SPDX licence expression such as Apache-2\.0"):
        about(license="other")


def test_without_a_licence_the_manifest_says_so_in_spdxs_words() -> None:
    assert about().license == UNSPECIFIED_LICENSE
    assert license_expression(UNSPECIFIED_LICENSE) == UNSPECIFIED_LICENSE and is_unspecified(
        UNSPECIFIED_LICENSE
    )
    assert not is_unspecified("Apache-2.0")


@pytest.mark.parametrize(
    "members",
    [
        {"languages": ["english please"]},
        {"publisher": "two\nlines"},
        {"publisher": "\x1b[2J"},
        {"intended_use": ""},
        {"derived_from": ["sha256:12"]},
        {"licence": "MIT"},
    ],
)
def test_what_cannot_be_meant_is_refused(members: dict[str, object]) -> None:
    with pytest.raises(RecipeError, match="about"):
        about(**members)


def test_an_origin_is_a_digest_with_a_relation() -> None:
    first, second = about(derived_from=[DIGEST, {"manifest": DIGEST, "relation": "merged"}]).derived_from
    assert (first.relation, second.relation, first.manifest) == ("continued", "merged", DIGEST)


def published(mirror: str, reference: str) -> Manifest:
    return find_manifest(reference, mirror)


def test_a_release_published_under_another_name_names_its_origin(tmp_path: Path) -> None:
    mirror = str(tmp_path / "mirror")
    first = push(write_adapter(tmp_path / "adapter"), "alice/decimals", to=mirror)
    folder = pull("alice/decimals", mirror).folder
    push(folder, "factory/line-7@2.0.0", to=mirror)
    origin = DerivedFrom(manifest_digest=first.manifest_digest, relation="republished")
    assert published(mirror, "factory/line-7").derived_from == (origin,)
    assert read_manifest(folder / "edgelora.json").derived_from is None
    assert push(folder, "factory/line-7@2.0.0", to=mirror).reused
    other = write_adapter(tmp_path / "other", seed=1)
    with pytest.raises(VersionExists):
        push(other, "factory/line-7@2.0.0", to=mirror)


def test_another_version_of_the_same_adapter_or_a_new_one_has_no_origin(tmp_path: Path) -> None:
    mirror = str(tmp_path / "mirror")
    push(write_adapter(tmp_path / "adapter"), "alice/decimals@1.2.0", to=mirror)
    push(write_adapter(tmp_path / "packed", name="local/first"), "alice/sensors@1.0.0", to=mirror)
    assert published(mirror, "alice/decimals").derived_from is None
    assert published(mirror, "alice/sensors").derived_from is None
