"""What a recipe says about its adapter stands in the manifest of the trained one."""

import pytest

from edgelora.errors import RecipeError
from edgelora.manifest import DerivedFrom, Use, read_manifest
from edgelora.run import run

ORIGIN = "sha256:" + "1" * 64


def test_publisher_licence_languages_use_and_origin_reach_the_manifest(recipe, registry, tmp_path):
    about = {
        "publisher": "Acme GmbH",
        "license": "apache-2.0",
        "languages": ["en", "id"],
        "intended_use": "Reads sensors.",
        "out_of_scope": "Medicine.",
        "derived_from": [ORIGIN],
    }
    run(recipe({"max_steps": 1}, about=about), registry)
    manifest = read_manifest(tmp_path / "run" / "adapter" / "edgelora.json")
    assert (manifest.publisher, manifest.license, manifest.languages) == (
        "Acme GmbH",
        "Apache-2.0",
        ("en", "id"),
    )
    assert manifest.use == Use(intended="Reads sensors.", out_of_scope="Medicine.")
    assert manifest.derived_from == (DerivedFrom(manifest_digest=ORIGIN, relation="continued"),)


def test_a_licence_that_is_no_spdx_expression_is_refused_before_training(recipe):
    with pytest.raises(RecipeError, match="is not an SPDX licence expression"):
        recipe(about={"license": "proprietary, ask us"})
