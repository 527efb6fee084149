"""The implementation gives every conformance vector the outcome that the specification gives it."""

import json
from pathlib import Path

import jsonschema
import pytest

from edgelora.errors import EdgeloraError, PathError, TensorFileError, every_error
from edgelora.manifest import FileEntry, check_path, check_paths, parse_manifest, tree_digest
from edgelora.manifest.canonical_json import canonical_json
from edgelora.manifest.tensor_digest import tensors_digest
from edgelora.manifest.tensors import read_header, summary_of

V1 = Path(__file__).parents[2] / "spec" / "v1"
VECTORS = V1 / "vectors"
INDEX = json.loads((VECTORS / "index.json").read_text(encoding="utf-8"))
PATHS = json.loads((VECTORS / "paths.json").read_text(encoding="utf-8"))
DIGESTS = json.loads((VECTORS / "digests.json").read_text(encoding="utf-8"))
TENSOR_FILES = json.loads((VECTORS / "safetensors" / "index.json").read_text(encoding="utf-8"))
VALID = [name for name, vector in INDEX.items() if vector["expect"] == "accept"]
INVALID = [name for name, vector in INDEX.items() if vector["expect"] != "accept"]


@pytest.mark.parametrize("name", VALID)
def test_valid_vector_is_accepted(name: str) -> None:
    assert parse_manifest((VECTORS / name).read_bytes()).kind == "adapter"


@pytest.mark.parametrize("name", INVALID)
def test_invalid_vector_is_refused_with_its_error(name: str) -> None:
    with pytest.raises(EdgeloraError) as caught:
        parse_manifest((VECTORS / name).read_bytes(), name)
    assert caught.value.id == INDEX[name]["expect"], INDEX[name]["rule"]
    assert caught.value.problem.isascii() or "±" in caught.value.problem
    assert caught.value.fix


def test_index_lists_every_vector_once() -> None:
    files = [path for kind in ("valid", "invalid") for path in (VECTORS / kind).iterdir()]
    assert sorted(str(path.relative_to(VECTORS)) for path in files) == sorted(INDEX)
    assert all(name.startswith("valid/") for name in VALID)
    assert all(name.startswith("invalid/") for name in INVALID)
    assert len(INDEX) >= 40


def test_index_names_known_errors_only() -> None:
    known = {kind.id for kind in every_error()}
    assert {INDEX[name]["expect"] for name in INVALID} <= known


@pytest.mark.parametrize("name", VALID)
def test_schema_accepts_valid_vector(name: str) -> None:
    schema = json.loads((V1 / "manifest.schema.json").read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator(schema).validate(json.loads((VECTORS / name).read_bytes()))


@pytest.mark.parametrize("path", PATHS["allowed"])
def test_plain_path_is_allowed(path: str) -> None:
    check_path(path)


@pytest.mark.parametrize("path", PATHS["refused"], ids=ascii)
def test_hostile_path_is_refused(path: str) -> None:
    with pytest.raises(PathError):
        check_path(path)


@pytest.mark.parametrize("pair", PATHS["clashing"], ids=ascii)
def test_clashing_paths_are_refused_in_either_order(pair: list[str]) -> None:
    for paths in (pair, pair[::-1]):
        for path in paths:
            check_path(path)
        with pytest.raises(PathError, match="clash"):
            check_paths(paths)


@pytest.mark.parametrize("name", TENSOR_FILES)
def test_weights_vector_has_its_outcome(name: str) -> None:
    place = VECTORS / "safetensors" / name
    if TENSOR_FILES[name]["expect"] == "accept":
        read_header(place)
        return
    with pytest.raises(TensorFileError, match="no safe safetensors file"):
        read_header(place)


def test_index_lists_every_weights_vector() -> None:
    files = sorted(path.name for path in (VECTORS / "safetensors").glob("*.safetensors"))
    assert files == sorted(TENSOR_FILES)


@pytest.mark.parametrize("case", DIGESTS["tree"])
def test_tree_digest_is_that_of_the_vector(case: dict) -> None:
    files = [FileEntry(**entry, media_type="text/plain", role="other") for entry in case["files"]]
    assert tree_digest(files) == case["digest"]


@pytest.mark.parametrize("case", DIGESTS["tensors"])
def test_tensors_digest_is_that_of_the_vector_however_it_is_sharded(case: dict) -> None:
    assert tensors_digest(VECTORS / "safetensors" / name for name in case["files"]) == case["digest"]


@pytest.mark.parametrize("case", DIGESTS["keys"])
def test_keys_digest_is_that_of_the_vector(case: dict) -> None:
    summary = summary_of([read_header(VECTORS / "safetensors" / name) for name in case["files"]])
    assert (summary.count, summary.bytes, summary.keys_digest) == (
        case["count"],
        case["bytes"],
        case["digest"],
    )


@pytest.mark.parametrize("case", DIGESTS["canonical"])
def test_canonical_form_is_that_of_the_vector(case: dict) -> None:
    assert canonical_json(json.loads(case["json"])).decode() == case["canonical"]
