"""The implementation gives every conformance vector the outcome that the specification gives it."""

import json
from pathlib import Path

import jsonschema
import pytest

from edgelora.conformance import OWN_FEATURES, READERS, compare, compare_all, load_vectors, own_reader
from edgelora.errors import EdgeloraError, every_error
from edgelora.manifest import check_paths, parse_manifest

V1 = Path(__file__).parents[2] / "spec" / "v1"
FOLDER = V1 / "vectors"
VECTORS = load_vectors(FOLDER)
KINDS = sorted({vector.kind for vector in VECTORS})
VALID_MANIFESTS = [each for each in VECTORS if each.kind == "manifests" and each.is_accepted]


@pytest.mark.parametrize("kind", KINDS)
def test_every_vector_has_its_outcome_and_its_error(kind: str) -> None:
    found = compare_all([each for each in VECTORS if each.kind == kind], own_reader, OWN_FEATURES)
    assert [each.sentence for each in found if each.outcome != "right" or each.has_other_id] == []


def test_there_are_enough_vectors_of_every_kind() -> None:
    assert len(VECTORS) >= 450
    assert set(READERS) <= set(KINDS)
    for kind in KINDS:
        outcomes = {each.is_accepted for each in VECTORS if each.kind == kind}
        assert outcomes == {True, False}, f"{kind} needs vectors that are accepted and some that are refused"


@pytest.mark.parametrize("kind", KINDS)
def test_index_lists_every_vector(kind: str) -> None:
    listed = {each.place for each in VECTORS if each.kind == kind}
    strays = [
        path.relative_to(FOLDER).as_posix()
        for path in (FOLDER / kind).rglob("*")
        if path.is_file() and path.name != "index.json" and not listed & {path, *path.parents}
    ]
    assert strays == []


@pytest.mark.parametrize("kind", KINDS)
def test_index_has_the_form_the_specification_gives(kind: str) -> None:
    index = json.loads((FOLDER / kind / "index.json").read_text(encoding="utf-8"))
    assert index.keys() == {"kind", "about", "vectors"}
    assert index["kind"] == kind
    assert list(index["vectors"]) == sorted(index["vectors"])
    for name, vector in index["vectors"].items():
        assert {"rule", "expect"} <= vector.keys() <= {"rule", "expect", "id", "features", "make"}, name
        assert ("id" in vector) == (vector["expect"] == "refuse"), name


def test_index_names_known_errors_only() -> None:
    assert {each.id for each in VECTORS if each.id} <= {kind.id for kind in every_error()}


def test_kinds_are_described_in_the_specification() -> None:
    text = (V1.parent / "README.md").read_text(encoding="utf-8")
    assert [kind for kind in KINDS if f"`{kind}`" not in text] == []


@pytest.mark.parametrize("vector", VALID_MANIFESTS, ids=lambda vector: vector.name)
def test_schema_accepts_valid_manifest(vector) -> None:
    schema = json.loads((V1 / "manifest.schema.json").read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator(schema).validate(json.loads(vector.place.read_bytes()))


def test_refusals_are_printable_and_say_what_to_do() -> None:
    for vector in VECTORS:
        if vector.kind == "manifests" and not vector.is_accepted:
            with pytest.raises(EdgeloraError) as caught:
                parse_manifest(vector.place.read_bytes(), vector.name)
            assert caught.value.problem.replace("±", "").isascii()
            assert caught.value.fix


def test_clashing_paths_are_refused_in_either_order() -> None:
    for vector in VECTORS:
        if vector.kind == "paths" and vector.name.startswith("clash-"):
            paths = json.loads(vector.place.read_bytes())
            with pytest.raises(EdgeloraError):
                check_paths(paths[::-1])


def test_vector_about_a_feature_holds_only_for_readers_that_do_not_know_it() -> None:
    (vector,) = [each for each in VECTORS if each.name == "invalid/composition-of-an-unknown-feature.json"]
    assert compare(vector, own_reader, OWN_FEATURES).outcome == "right"
    assert compare(vector, own_reader, OWN_FEATURES | {"compose:sum"}).outcome == "skipped"
